"""The doctor says what a run would fail of, with the fix, and exits with 1; what is well is well."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from distrib.doctor import devices, disk, processes, software
from distrib.doctor.__main__ import main
from distrib.doctor.finding import Finding, fails, note, ok, table
from tests.support import ROOT, free_port


def of(findings: Iterable[Finding], about: str) -> list[Finding]:
    return [each for each in findings if each.about == about]


def test_the_table_fits_a_terminal() -> None:
    long = fails("world", "a word and another " * 20, "mend it")
    lines = table([ok("python", "3.11"), long, note("disk", "/" + "very/long" * 20)]).splitlines()
    assert lines[0] == "ok    python          3.11"
    assert lines[1].startswith("fails world           a word")
    assert all(len(line) <= 80 for line in lines[:-3])
    assert lines[-1] == "1 problem: a run would fail here (1 note)"
    assert table([ok("python", "3.11")]).splitlines()[-1] == "a run can start here"


def test_what_training_needs_is_what_pyproject_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    minima = {name: f"{least}.0".split(".")[:2] for name, least in (each.split(">=") for each in wanted)}
    assert {name: (int(major), int(minor)) for name, (major, minor) in minima.items()} == software.TRAINING


@pytest.mark.parametrize(
    ("name", "version", "state"),
    [
        ("torch", "2.14.1+cu130", "ok"),
        ("torch", "2.10.0", "fails"),
        ("torch", None, "fails"),
        ("torch", "3.0", "ok"),
        ("accelerate", "1.9.0", "fails"),
        ("jax", None, "note"),
        ("torch", "main", "ok"),
    ],
)
def test_packages(monkeypatch: pytest.MonkeyPatch, name: str, version: str | None, state: str) -> None:
    known: Any = getattr(software, "_version")  # noqa: B009

    def told(asked: str) -> str | None:
        return version if asked == name else known(asked)

    monkeypatch.setattr(software, "_version", told)
    [found] = of(software.look(), "cross-check" if name == "jax" else "packages")
    assert found.state == state
    assert name in found.found
    assert ("pip install" in found.fix) == (state != "ok")


def test_without_what_training_needs_nothing_is_imported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(_: str) -> None:
        return None

    monkeypatch.setattr(software, "_version", nothing)
    assert main([]) == 1
    assert "pip install '.[train]' in a clone of Twinstep" in " ".join(capsys.readouterr().out.split())


def test_a_disk_that_is_well(tmp_path: Path) -> None:
    found = list(disk.look(tmp_path / "runs"))
    assert [each.state for each in found if each.about != "data"] == ["ok", "ok"]
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    [found] = of(disk.look(tmp_path / "file" / "runs"), "disk")
    assert (found.state, "Not a directory" in found.found) == ("fails", True)


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    [found] = of(disk.look(tmp_path), "data")
    assert (found.state, "data.root = none means ~/.cache/twinstep" in found.found) == ("fails", True)


def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    [found] = of(disk.look(tmp_path), "disk")
    assert (found.state, "No space left" in found.found) == ("fails", True)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(*_: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without)
    [found] = of(disk.look(tmp_path), "locks")
    assert found.state == "note"


def test_kernels_and_formats_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    found = list(devices.look(torch.device("cpu")))
    assert of(found, "fused") == [ok("fused", "SGD, Adam, AdamW on cpu")]
    assert [each.state for each in of(found, "precision")][-1] == "ok"
    assert any("tf32 needs an NVIDIA GPU" in each.found for each in of(found, "precision"))


def test_a_kernel_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("`fused=True` requires all the params to be floating point Tensors\nand more")

    monkeypatch.setitem(getattr(devices, "_OPTIMIZERS"), "Adam", refuse)  # noqa: B009
    fused = of(devices.look(torch.device("cpu")), "fused")
    assert [each.state for each in fused] == ["ok", "note"]
    assert "no fused Adam on cpu (`fused=True` requires" in fused[1].found


def test_a_wish_that_this_machine_does_not_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    [*_, last] = of(devices.look(torch.device("cpu")), "precision")
    assert (last.state, "fp8" in last.found) == ("fails", True)


def test_ports_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("socket.create_server", refuse)
    alone: Any = getattr(processes, "_alone")  # noqa: B009
    [found] = of(alone(), "ports")
    assert (found.state, "Permission denied" in found.found) == ("fails", True)


def test_a_world_in_which_nothing_trains(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    assert main([]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "fails world the environment says WORLD_SIZE = 'two'" in said
    assert said.endswith("1 problem: a run would fail here")


@pytest.mark.parametrize(
    ("numbers", "speaks"),
    [
        ({"RANK": "1"}, True),
        ({"RANK": "1", "WORLD_SIZE": "two"}, True),
        ({"RANK": "1", "WORLD_SIZE": "two", "LOCAL_RANK": "1"}, False),
    ],
)
def test_who_speaks_if_the_processes_cannot_meet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], numbers: dict[str, str], speaks: bool
) -> None:
    for name, value in numbers.items():
        monkeypatch.setenv(name, value)
    assert main([]) == 1
    assert ("1 problem: a run would fail here" in capsys.readouterr().out) is speaks


def test_one_process_of_a_launcher_whose_port_is_taken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A LOCAL_RANK makes even a single process join a group, and so it has to meet itself."""
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        numbers = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_PORT": other.getsockname()[1]}
        for name, value in (numbers | {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": 1}).items():
            monkeypatch.setenv(name, str(value))
        assert main([]) == 1
    assert "another program has the port" in " ".join(capsys.readouterr().out.split())


def test_bad_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert (main(["--nothing"]), capsys.readouterr().err.count("\n")) == (2, 1)


def test_two_ranks_meet_and_one_speaks(tmp_path: Path) -> None:
    world = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "distrib.doctor", "--dir", str(tmp_path)],
            env={**os.environ, **world, "CUDA_VISIBLE_DEVICES": "", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        for rank in (0, 1)
    ]
    (out, _), (silence, _) = (rank.communicate(timeout=400) for rank in ranks)
    assert ([rank.returncode for rank in ranks], silence) == ([0, 0], ""), out
    assert "ok    world           2 processes, 2 on this machine" in out
    assert "ok    all-reduce      1 MiB over gloo in" in out
    assert out.count("ok    disk") == 1
    assert "a run can start here" in out.splitlines()[-1]
