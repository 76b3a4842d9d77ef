"""The entry point, where what it needs is not installed."""

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
