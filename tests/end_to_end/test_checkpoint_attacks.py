"""Checkpoints and their disk are damaged. The run says what it found, and ends with the same bytes."""

import os
import random
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from crosscheck import Verdict, replay
from tests.disk import Disk
from tests.end_to_end.faults import (
    NOBODY,
    as_nobody,
    flip,
    killed_after,
    killed_as_nobody,
    killed_in_save,
    read_only_after,
)
from tests.support import QUICKSTART, SMALL, Result, checkpoint_of, read_json, steps, tensor_bytes, train, train_well

END = 20
Plant = Callable[[int], None]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train_well(folder, *SMALL)
    return folder


def start(folder: Path, *options: str, plant: Plant | None = None) -> Result:
    """Train in the folder and return the result."""
    [result] = train([QUICKSTART, *SMALL, *options, "--output.dir", folder], plant=plant)
    return result


def refused(result: Result, *words: str | Path) -> None:
    """Check that the start was refused with one paragraph that has the words, and no traceback."""
    assert result.code == 2, result
    assert result.err.startswith("bad input: ")
    assert result.err.count("\n") == 1, result.err
    for word in words:
        assert str(word) in result.err


def killed(folder: Path, step: int, *options: str, nobody: bool = False) -> None:
    """Train in the folder until the run is killed after this step."""
    plant = partial(killed_after, step) if not nobody else partial(killed_as_nobody, step)
    assert start(folder, *options, plant=plant).code == -signal.SIGKILL


def assert_ends_as(undisturbed: Path, folder: Path, result: Result) -> dict[str, Any]:
    """Check that the run ended with the same bytes and has every step once in its metrics. Return its summary."""
    assert (result.code, result.err) == (0, "")
    assert tensor_bytes(checkpoint_of(folder, END)) == tensor_bytes(checkpoint_of(undisturbed, END))
    found, wanted = read_json(folder / "summary.json"), read_json(undisturbed / "summary.json")
    for key in ("weights_sha256", "test_loss", "test_accuracy", "steps", "applied_updates"):
        assert found[key] == wanted[key], key
    assert [line["step"] for line in steps(folder)] == list(range(1, END + 1))
    return found


def test_damaged_checkpoints_are_named_and_passed_over(tmp_path: Path, undisturbed: Path) -> None:
    """Checkpoints are damaged in every way, beside the remains of killed saves and a line of metrics that was cut short."""
    folder = tmp_path / "run"
    options = ("--checkpoint.every_steps=2", "--checkpoint.keep=9")
    killed(folder, 13, *options)
    part = checkpoint_of(folder, 12) / "model.safetensors"
    os.truncate(part, part.stat().st_size // 2)
    flip(checkpoint_of(folder, 10) / "optimizer.safetensors")
    (checkpoint_of(folder, 8) / "optimizer.safetensors").unlink()
    (checkpoint_of(folder, 6) / "manifest.json").unlink()
    shutil.copytree(checkpoint_of(folder, 6), folder / "checkpoints" / ".building-x1y2z3")
    shutil.copytree(checkpoint_of(folder, 10), folder / "checkpoints" / "step-00000010.old")
    metrics = folder / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:-20])

    result = start(folder, *options)
    skipped = [line.split(": ", 1) for line in result.out.splitlines() if " skipped: " in line]
    assert [(start.split("/")[-1], why.partition(" ")[0]) for start, why in skipped] == [
        ("step-00000012 skipped", "model.safetensors"),
        ("step-00000010 skipped", "optimizer.safetensors"),
        ("step-00000010.old skipped", "optimizer.safetensors"),
        ("step-00000008 skipped", "optimizer.safetensors"),
        ("step-00000006 skipped", "manifest.json"),
    ]
    for (_, why), words in zip(skipped, ("bytes", "sha256", "sha256", "No such file", "No such file"), strict=True):
        assert words in why
    summary = assert_ends_as(undisturbed, folder, result)
    assert summary["resumed_from"] == str(checkpoint_of(folder, 4))
    there = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert there == [f"step-{step:08d}" for step in range(4, 21, 2)]


def test_killed_at_any_moment_of_a_save(tmp_path: Path, undisturbed: Path) -> None:
    """A save of this size takes ten to twenty milliseconds, so some kills come after it."""
    folder, moments = tmp_path / "run", random.Random(5)  # noqa: S311
    options = ("--checkpoint.every_steps=1", "--crosscheck.record", "--crosscheck.gradient_steps=[]")
    options += ("--crosscheck.replay=false",)
    for _ in range(8):
        result = start(folder, *options, plant=partial(killed_in_save, 2, moments.uniform(0.0, 0.02)))
        assert (result.code, result.err) == (-signal.SIGKILL, "")
    result = start(folder, *options)
    assert " skipped: " not in result.out
    assert_ends_as(undisturbed, folder, result)
    assert {path.name[:5] for path in (folder / "checkpoints").iterdir()} == {"step-"}
    report = replay(folder)
    assert (report.verdict, report.warnings) == (Verdict.MATCH, ())
    assert sum("resumed here" in note for note in report.notes) == 8


@pytest.fixture
def mount() -> Iterator[Callable[[Path, int], Disk]]:
    """A function that mounts a disk of so many megabytes on a folder."""
    mounted: list[Disk] = []

    def mount(folder: Path, megabytes: int) -> Disk:
        disk = Disk(folder, megabytes)
        if not disk.small:
            pytest.skip("no disk can be mounted here")
        mounted.append(disk)
        return disk

    yield mount
    for disk in mounted:
        disk.unmount()
        assert not disk.small, f"{disk.folder} is still in use"


@pytest.mark.parametrize("fills", ["a checkpoint", "the trace"])
def test_a_full_disk(tmp_path: Path, undisturbed: Path, mount: Callable[[Path, int], Disk], fills: str) -> None:
    """One checkpoint fits on the disk, but a second one, or what is recorded until then, does not."""
    disk = mount(tmp_path / "disk", 64)
    folder = disk.folder / "run"
    options = ("--checkpoint.every_steps=6",)
    if fills == "the trace":
        options += ("--crosscheck.record", "--crosscheck.steps=all", "--crosscheck.replay=false")
    killed(folder, 7, *options)
    disk.fill(leave=2**20)
    before = tensor_bytes(checkpoint_of(folder, 6))

    result = start(folder, *options)
    refused(result, *([checkpoint_of(folder, 10)] if fills == "a checkpoint" else [folder / "trace", "part-0000"]))
    for words in ("No space left on device", "free space", "output.dir"):
        assert words in result.err
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-00000006"]
    assert tensor_bytes(checkpoint_of(folder, 6)) == before
    disk.relieve()
    result = start(folder, *options)
    assert_ends_as(undisturbed, folder, result)
    if fills == "the trace":
        assert replay(folder).warnings == ()


def test_a_disk_that_becomes_read_only(tmp_path: Path, undisturbed: Path, mount: Callable[[Path, int], Disk]) -> None:
    folder, options = tmp_path / "run", ("--checkpoint.every_steps=4",)
    disk = mount(folder / "checkpoints", 16)
    result = start(folder, *options, plant=partial(read_only_after, 6, disk))
    refused(result, checkpoint_of(folder, 8), "Read-only file system", "output.dir")
    refused(start(folder, *options), checkpoint_of(folder, 8), "Read-only file system", "output.dir")
    disk.become("rw")
    result = start(folder, *options)
    summary = assert_ends_as(undisturbed, folder, result)
    assert summary["resumed_from"] == str(checkpoint_of(folder, 4))


def test_a_disk_that_is_read_only(tmp_path: Path, mount: Callable[[Path, int], Disk]) -> None:
    disk = mount(tmp_path / "disk", 1)
    disk.become("ro")
    refused(start(disk.folder / "run"), "output.dir", disk.folder / "run", "Read-only file system")


@pytest.fixture
def of_nobody() -> Iterator[Path]:
    """A folder that the user nobody owns and that every user may enter."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        os.chown(folder, NOBODY, -1)
        yield folder


def test_a_checkpoint_of_somebody_else(of_nobody: Path, undisturbed: Path) -> None:
    folder, options = of_nobody / "run", ("--checkpoint.every_steps=4",)
    killed(folder, 9, *options, nobody=True)
    foreign = checkpoint_of(folder, 8)
    os.chown(foreign, 0, -1)
    foreign.chmod(0o700)
    result = start(folder, *options, plant=as_nobody)
    assert f"checkpoint {foreign} skipped: manifest.json cannot be read (Permission denied)" in result.out
    summary = assert_ends_as(undisturbed, folder, result)
    assert summary["resumed_from"] == str(checkpoint_of(folder, 4))


def test_a_folder_of_somebody_else(of_nobody: Path) -> None:
    folder = of_nobody / "run"
    folder.mkdir(mode=0o755)
    refused(start(folder, plant=as_nobody), "output.dir", folder, "Permission denied")
