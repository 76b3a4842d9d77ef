"""When a cluster is started, and what remains of it."""

from pathlib import Path

import pytest

from tests.slurm import conftest
from tests.slurm.cluster import Cluster
from tests.slurm.training import expect_process, processes_that_name


def test_without_slurm_tests_skip_unless_it_was_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.slurm.cluster.PROGRAMS", ("munged", "no-such-daemon"))
    for name in ("CI", "TWINSTEP_REQUIRE_SLURM"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"not installed: .*no-such-daemon"):
        conftest.expect_slurm()
    monkeypatch.setenv("TWINSTEP_REQUIRE_SLURM", "1")
    with pytest.raises(pytest.fail.Exception, match=r"not installed: .*no-such-daemon"):
        conftest.expect_slurm()


@pytest.mark.xdist_group("slurm")
def test_a_cluster_leaves_nothing(tmp_path: Path) -> None:
    conftest.expect_slurm()
    cluster = Cluster(tmp_path / "cluster", nodes=1)
    marked = tmp_path / "a name to look for"
    cluster.submit("other.sh", marked)
    expect_process("sh", marked)
    cluster.wipe()
    assert not processes_that_name(marked)
    assert not cluster.folder.exists()
