"""Whole starts in surroundings that are not what they should be: each ends in one sentence, or as if nothing were wrong."""

import os
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from tests.end_to_end.faults import moved_after
from tests.support import QUICKSTART, SMALL, read_json, train, train_well

TINY = (*SMALL, "--training.epochs=1", "--data.train_images=64")


def test_a_launcher_that_says_nonsense(tmp_path: Path) -> None:
    [result] = train([QUICKSTART, *TINY, "--output.dir", tmp_path / "run"], environment={"WORLD_SIZE": "two"})
    assert (result.code, result.err.count("\n")) == (2, 1), result
    assert result.err.startswith("bad input: the environment says WORLD_SIZE = ")


def test_a_status_that_would_replace_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    [result] = train([QUICKSTART, *TINY, "--output.dir", tmp_path / "run"], environment={"TWINSTEP_STATUS": str(pipe)})
    assert (result.code, result.err.count("\n")) == (2, 1), result
    assert f"TWINSTEP_STATUS = {pipe}: a pipe is in its place" in result.err
    assert pipe.is_fifo()


def test_a_folder_that_is_moved_does_not_become_two(tmp_path: Path) -> None:
    plant = partial(moved_after, 3, tmp_path / "run", tmp_path / "moved")
    [result] = train([QUICKSTART, *SMALL, "--output.dir", tmp_path / "run"], plant=plant)
    assert (result.code, result.err.count("\n")) == (2, 1), result
    assert f"{tmp_path / 'run'}" in result.err
    assert "No such file or directory" in result.err
    assert not (tmp_path / "run").exists()
    assert train_well(tmp_path / "moved", *SMALL)["steps"] == 20


@pytest.mark.parametrize("damage", ['{"steps": 2, "crosscheck": []}', "pipe"])
def test_a_summary_that_is_damaged_is_written_anew(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "run"
    before = train_well(folder, *TINY)
    (folder / "summary.json").unlink()
    if damage == "pipe":
        os.mkfifo(folder / "summary.json")
        [result] = train([QUICKSTART, *TINY, "--output.dir", folder])
        assert (result.code, "a pipe is in its place" in result.err) == (2, True), result
        return
    (folder / "summary.json").write_text(damage)
    assert train_well(folder, *TINY)["weights_sha256"] == before["weights_sha256"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    """Classes, files, the recipe and the run's folder have names with bytes that are no UTF-8, or that a terminal obeys."""
    odd = os.fsdecode(b"caf\xe9\x1b[2J\ndata: ")
    for place in ("train/a", f"train/{odd}", "test/a", f"test/{odd}"):
        for number in range(4):
            file = tmp_path / odd / place / f"{odd}{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (32, 32), (60 * number, 10, 20)).save(file)
    recipe = tmp_path / f"{odd}.toml"
    recipe.write_text('optimizer.name = "sgd"\ntraining.batch_size = 4\ntraining.epochs = 1\ntraining.threads = 1\n')
    (tmp_path / "link").symlink_to(tmp_path / odd)
    arguments = [recipe, "--data.source", f"folder:{tmp_path / 'link'}", "--data.root", tmp_path / "cache"]
    [result] = train([*arguments, "--output.dir", tmp_path / "run"])
    assert (result.code, result.err) == (0, ""), result
    assert [line for line in result.out.splitlines() if line.startswith("data: ")] == [
        "data: 2 classes: a, caf\\udce9\\x1b[2J\\ndata: "
    ]
    assert read_json(tmp_path / "run" / "summary.json")["steps"] == 2
    (tmp_path / odd / f"train/{odd}/{odd}0.png").write_text("no image")
    [result] = train([*arguments, "--output.dir", tmp_path / "other"])
    assert (result.code, "\x1b" in result.err) == (2, False)
    assert "data: 0.png cannot be decoded" in result.err
