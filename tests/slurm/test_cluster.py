"""A cluster is started only where it can be, and leaves nothing behind."""

from pathlib import Path

import pytest

from tests.processes import expect_process, that_name
from tests.slurm import conftest
from tests.slurm.cluster import start_cluster


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
    marked = tmp_path / "a name to look for"
    with start_cluster(nodes=1) as cluster:
        cluster.submit("other.sh", marked)
        expect_process("sh", marked)
    assert not that_name(marked)
    assert not cluster.folder.exists()
