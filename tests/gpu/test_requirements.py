"""An interpreter that lacks something is told so in one line, before anything runs."""

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.gpu import requirements
from tests.support import ROOT


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python on which nothing is installed."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin" / "python"


def said(python: Path, site: Path, out: Path) -> str:
    result = subprocess.run(
        [python, "-m", "tests.gpu", "--device", "cpu", "--out", out],
        cwd=ROOT,
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert not out.exists(), "nothing runs"
    return result.stderr


def site_without(folder: Path, *hidden: str) -> Path:
    """This interpreter's packages, but for those whose files begin so."""
    folder.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(hidden) and not entry.name.endswith(".pth"):
            (folder / entry.name).symlink_to(entry)
    return folder


def test_a_bare_interpreter_is_told_all_of_it(bare: Path, tmp_path: Path) -> None:
    told = said(bare, tmp_path / "nothing", tmp_path / "out")
    for need in (
        "torch>=2.11",
        "jax>=0.10",
        "optax>=0.2.8",
        "accelerate>=1.10",
        "pydantic>=2.12",
        "tomli-w>=1.2",
        "pytest>=8.3,<9.2",
    ):
        assert f"'{need}'" in told
    major, minor = sys.version_info[:2]
    assert f"python -m pip download --only-binary=:all: --python-version {major}.{minor} --platform manylinux" in told
    assert "--no-index --find-links wheels" in told


def test_what_is_missing_is_named_and_nothing_else(bare: Path, tmp_path: Path) -> None:
    site = site_without(tmp_path / "site", "pydantic", "tomli_w")
    assert "missing here: pydantic>=2.12, tomli-w>=1.2. On a machine" in said(bare, site, tmp_path / "out")


def test_what_the_missing_need_in_their_turn_is_named(bare: Path, tmp_path: Path) -> None:
    site = site_without(tmp_path / "site", "typing_inspection")
    assert "missing here: typing-inspection. On a machine" in said(bare, site, tmp_path / "out")


@pytest.mark.parametrize(
    ("version", "met"), [("2.11.0+cu130", True), ("2.11", True), ("3.0rc1", True), ("2.10.9", False), ("1.99", False)]
)
def test_versions_are_compared_by_their_numbers(monkeypatch: pytest.MonkeyPatch, version: str, met: bool) -> None:
    def installed(_name: str) -> str:
        return version

    monkeypatch.setattr("importlib.metadata.version", installed)
    assert requirements.is_met("torch>=2.11") is met


def test_this_interpreter_lacks_nothing() -> None:
    assert requirements.problem() == ""
