"""One worker of pytest-xdist runs all tests of a group, so that they can share something costly, such as a cluster."""

import subprocess
import sys
from pathlib import Path

from tests.support import ROOT

GROUPED = """
import os, pytest

@pytest.mark.parametrize("number", range(8))
@pytest.mark.xdist_group("one")
def test_grouped(number):
    with open("workers", "a") as file:
        file.write(os.environ["PYTEST_XDIST_WORKER"] + chr(10))

@pytest.mark.parametrize("number", range(8))
def test_other(number):
    pass
"""


def test_a_group_is_one_workers(tmp_path: Path) -> None:
    """This holds with the options of the Makefile. Some pairs of versions of pytest and pytest-xdist ignore groups."""
    [options] = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("PYTEST :=")]
    assert "--dist loadgroup" in options
    (tmp_path / "test_it.py").write_text(GROUPED)
    command = [sys.executable, "-m", "pytest", "-q", "--numprocesses", "2", "--dist", "loadgroup", "test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    workers = (tmp_path / "workers").read_text().split()
    assert len(workers) == 8
    assert len(set(workers)) == 1
