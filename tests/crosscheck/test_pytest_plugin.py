"""Tests the pytest plugin in test suites as other people write them."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import JAX, ROOT, run_without

SUITE = """
import sys
import torch_free

def test_right(check_optimizer):
    import torch
    check_optimizer(lambda params: torch.optim.SGD(params, lr=0.1), steps=2, size=64, situations=())

def test_wrong(check_optimizer):
    import torch

    class Mine(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    p.data.sub_(p.grad, alpha=1.01 * group["lr"])

    check_optimizer(lambda params: Mine(params, lr=0.1), rule="sgd", steps=2, size=64, situations=())
"""
CLASH = """
from crosscheck import check_optimizer  # its name is that of the fixture

def test_imported():
    assert callable(check_optimizer)
"""
TORCH_FREE = "import sys\nassert not {'torch', 'jax', 'numpy'} & set(sys.modules)\n"
OPTIONS = (
    "-p",
    "crosscheck.pytest_plugin",
    "-p",
    "no:cacheprovider",
    "-W",
    "error",
    "--strict-config",
    "--strict-markers",
)


@pytest.fixture(autouse=True)
def no_other_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are slow, or import JAX themselves."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def suite(folder: Path) -> Path:
    (folder / "torch_free.py").write_text(TORCH_FREE)
    (folder / "test_mine.py").write_text(SUITE)
    (folder / "test_clash.py").write_text(CLASH)
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


def test_the_fixture_passes_what_is_right_and_shows_what_is_wrong(tmp_path: Path) -> None:
    """Nothing that is slow to import is there when the suite's first module is collected."""
    command = [sys.executable, "-m", "pytest", *OPTIONS, suite(tmp_path) / "test_mine.py", tmp_path / "test_clash.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 2 passed" in done.stdout
    assert "MathMismatch: mismatch: Mine (single on cpu) is not sgd;" in done.stdout
    assert "> " in done.stdout
    assert "crosscheck/testing/check.py" not in done.stdout.partition("short test summary")[0], (
        "the line of the test is shown"
    )


def test_without_jax_the_fixture_says_what_to_install(tmp_path: Path) -> None:
    script = f"import sys, pytest\nsys.exit(pytest.main([*{OPTIONS!r}, *sys.argv[1:]]))"
    done = run_without(JAX, script, suite(tmp_path) / "test_mine.py")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the fixture check_optimizer needs torch and JAX, and " in done.stdout
    assert " is not installed: pip install '.[train,replay]' in a clone of Twinstep" in done.stdout
    assert "Traceback" not in done.stdout
