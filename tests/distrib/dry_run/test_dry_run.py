"""`twinstep train RECIPE --dry-run`: it says what a run would be, and leaves every file as it was."""

import re
from pathlib import Path

from tests.support import QUICKSTART, SMALL, train, train_well

DRY = "--dry-run"


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_it_says_what_a_run_would_be_and_writes_nothing(tmp_path: Path) -> None:
    options = [*SMALL, "--crosscheck.record=true", "--training.accumulate=2", "--output.dir", tmp_path / "run"]
    [result] = train([QUICKSTART, DRY, *options])
    assert (result.code, result.err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    for words in (
        r"\[training\]\n  epochs = 2 +the command line\n  batch_size = 16 +the command line\n  last_batch = 'drop' +default\n",
        r"\[optimizer\]\n  name = 'sgd' +the recipe\n",
        r"world      1 process, cpu, 1 of \d+ cores a process\n",
        r"batch      16 images, 16 a rank, in 2 parts of 8\n",
        r"data       synthetic: 160 training images, 50 test images, 10 classes\n",
        r"steps      20 in 2 epochs of 10\n",
        r" [│|]   .*[•*]",
        r"memory     [\d.,]+ [MG]iB a rank, at the peak of these steps",
        r"disk       [\d.,]+ MiB at most: checkpoints of 1\.1 MiB, of which 3 stay",
        r"trace [\d.,]+ MiB",
        r"time       [\d.]+ ms a step, the mean of 3 behind one that is not counted",
        r"dry run: nothing was written",
    ):
        assert re.search(words, result.out), words
    own = result.out[result.out.index("[data]") :].splitlines()
    assert max(len(line) for line in own if str(tmp_path) not in line) <= 80


def test_of_a_run_that_is_under_way_it_changes_no_byte(tmp_path: Path) -> None:
    train_well(tmp_path, *SMALL, "--training.epochs=1")
    before = files(tmp_path)
    [result] = train([QUICKSTART, *SMALL, "--output.dir", tmp_path, DRY])
    assert result.code == 0, result
    assert files(tmp_path) == before
    assert "steps      20 in 2 epochs of 10; 10 are done (10 updates), 10 are to take\n" in result.out
    [result] = train([QUICKSTART, *SMALL, "--training.epochs=1", "--output.dir", tmp_path, DRY])
    assert "0 steps to take: too few to measure" in result.out
    assert files(tmp_path) == before


def test_rank_0_speaks_for_all(tmp_path: Path) -> None:
    first, second = train([QUICKSTART, *SMALL, DRY, "--output.dir", tmp_path / "run"], world_size=2)
    assert (first.code, second.code, second.out) == (0, 0, "")
    assert "world      2 processes" in first.out
    assert "batch      16 images, 8 a rank\n" in first.out
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_would_refuse_it_refuses(tmp_path: Path) -> None:
    for option, words in (
        ("--training.world_size=2", "training.world_size = 2, but this run has 1 process"),
        ("--schedule.name=cosine --schedule.warmup=9", "schedule.warmup = 9 epochs is 90 updates"),
        ("--output.trackers=nothing", "nothing is no tracker"),
        ("--training.epoch=3", "did you mean training.epochs?"),
    ):
        [result] = train([QUICKSTART, *SMALL, DRY, *option.split(), "--output.dir", tmp_path / "run"])
        assert result.code == 2
        assert words in result.err
    assert list(tmp_path.iterdir()) == []
