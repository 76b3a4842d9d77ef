"""Tests the entry point, where what it needs is not installed, and how its process ends."""

from pathlib import Path

import pytest

from tests.support import read_json, run_without

_AS_A_MODULE = (
    "import runpy, sys\nsys.argv = ['train', 'quickstart']\nrunpy.run_module('distrib.train', run_name='__main__')"
)


@pytest.mark.parametrize(
    "missing", [("torch",), ("accelerate",), ("torch", "torchvision", "accelerate", "tqdm", "PIL")]
)
def test_without_its_packages_it_says_what_to_install(
    missing: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = tmp_path / "status.json"
    monkeypatch.setenv("TWINSTEP_STATUS", str(status))
    result = run_without(missing, _AS_A_MODULE)
    assert (result.returncode, result.stdout) == (2, ""), result.stderr
    [line] = result.stderr.splitlines()
    assert line.startswith("bad input: python -m distrib.train needs ")
    assert "pip install '.[train]' in a clone of Twinstep" in line
    said = read_json(status)
    assert (said["exit_code"], said["reason"], said["retry"]) == (2, line, False)


_SIGNALLED_AT_ITS_END = """
import atexit, os, signal, sys
from distrib.train import main
atexit.register(os.kill, os.getpid(), signal.SIGTERM)
sys.exit(main(["quickstart"]))
"""


def test_a_signal_while_the_interpreter_ends_does_not_change_the_exit_code() -> None:
    """Without torch it is refused quickly; with torch the interpreter takes a third of a second to end."""
    result = run_without(("torch",), _SIGNALLED_AT_ITS_END)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
