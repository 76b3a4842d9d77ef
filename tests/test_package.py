"""Tests what an installation gets: the wheel is built and looked into."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGES = ("crosscheck", "distrib", "twinstep")
_BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Build from a copy, since setuptools leaves its files in the folder."""
    source, to = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, "launch"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", _BUILD, to], cwd=source, check=True, capture_output=True)
    [file] = to.glob("*.whl")
    return zipfile.ZipFile(file)


def test_every_file_of_the_packages_and_of_launch_is_in_it(wheel: zipfile.ZipFile) -> None:
    ours = {str(path.relative_to(ROOT)) for name in PACKAGES for path in _files(ROOT / name)}
    launch = {f"distrib/launch/{path.relative_to(ROOT / 'launch')}" for path in _files(ROOT / "launch")}
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == ours | launch
    assert {f"{name}/py.typed" for name in PACKAGES} <= held


def test_what_leads_to_launch_is_copied_and_can_be_run(wheel: zipfile.ZipFile) -> None:
    assert (
        wheel.read("distrib/launch/recipes/quickstart.toml") == (ROOT / "launch/recipes/quickstart.toml").read_bytes()
    )
    assert wheel.getinfo("distrib/launch/auto.sh").external_attr >> 16 & 0o111


def test_the_command_and_the_pytest_plugin_are_installed(wheel: zipfile.ZipFile) -> None:
    [points] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    said = wheel.read(points).decode()
    assert "[console_scripts]\ntwinstep = twinstep.command:main" in said
    assert "[pytest11]\ntwinstep = crosscheck.pytest_plugin" in said


def _files(folder: Path) -> list[Path]:
    """Return the files in the folder and below it, but not behind links."""
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
