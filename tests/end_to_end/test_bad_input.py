"""A mistake of the user ends with exit code 2 and one paragraph that names the key and the fix."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from distrib.checkpoint.store import newest_valid
from tests.support import QUICKSTART, RECIPES, SMALL, read_json, train, train_well

HAS_FP16 = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_fp16", "amx_fp16"))


def refused(*arguments: str | Path, world_size: int = 1, file_limit: int = 0) -> str:
    """Run, expect every rank to exit with 2, and return the paragraph that rank 0 prints. The others must print nothing."""
    results = train(arguments, world_size=world_size, file_limit=file_limit)
    assert [result.code for result in results] == [2] * world_size, results
    said = results[0].err
    assert said.startswith("bad input: ")
    assert said.count("\n") == 1, said
    assert all(result.err == "" for result in results[1:])
    return said


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images with two classes, each with four images for training and two for testing."""
    root = tmp_path / "images"
    for split, count in (("train", 4), ("test", 2)):
        for number, name in enumerate(("cats", "dogs")):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (40, 36), (90 * number, 20 * i, 60)).save(root / split / name / f"{i}.png")
    return root


def of(images: Path) -> list[str]:
    """Return the options of a short training on this folder of images."""
    source = [f"--data.source=folder:{images}", f"--data.root={images.parent}"]
    return [*source, "--training.batch_size=4", "--training.epochs=1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere.toml"], ["nowhere.toml", "launch/recipes"]),
        ([QUICKSTART, "--training.epoch=3"], ["training.epoch", "did you mean training.epochs"]),
        ([QUICKSTART, "--training.epochs=0"], ["training.epochs = 0", "greater than or equal to 1"]),
        (
            [QUICKSTART, "--optimizer.dampening=0.5"],
            ["dampening", "Nesterov", "optimizer.dampening is from the command line"],
        ),
        ([RECIPES / "adam-onecycle.toml", "--optimizer.momentum=0.9"], ["optimizer.momentum", "belongs to sgd"]),
        ([QUICKSTART, "--data.source=folder:/nowhere"], ["data.source", "/nowhere", "no such folder"]),
        ([QUICKSTART, *SMALL, "--output.dir=/dev/null/run"], ["output.dir", "/dev/null/run"]),
        (
            [QUICKSTART, *SMALL, "--training.world_size=2"],
            ["training.world_size = 2", "launch/cpu-2.yaml", "_size is from the command line"],
        ),
        ([QUICKSTART, *SMALL, "--training.accumulate=3"], ["training.accumulate = 3", "batch_size = 16", "divisor"]),
        (
            [RECIPES / "article-sgd.toml", *SMALL, "--schedule.name=multistep", "--schedule.milestones=[1, 5]"],
            ["schedule.milestones = [1, 5] epochs", "the whole run has 20"],
        ),
        (
            [RECIPES / "article-sgd.toml", *SMALL, "--schedule.name=cosine", "--schedule.warmup=2"],
            ["schedule.warmup = 2 epochs", "the whole run has 20", "; schedule.warmup is from the command line"],
        ),
        ([QUICKSTART, *SMALL, "--checkpoint.resume=/nowhere"], ["checkpoint.resume", "/nowhere"]),
    ],
)
def test_one_paragraph_and_exit_code_2(tmp_path: Path, arguments: list[str | Path], words: list[str]) -> None:
    given = any(str(argument).startswith("--output.dir") for argument in arguments)
    said = refused(*arguments, *([] if given else ["--output.dir", tmp_path / "run"]))
    for word in words:
        assert word in said


@pytest.mark.skipif(HAS_FP16, reason="this CPU computes in float16")
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_format_that_the_cpu_only_emulates(tmp_path: Path, world_size: int) -> None:
    arguments = (*SMALL, "--precision.mode=fp16", "--output.dir", tmp_path / "run")
    said = refused(QUICKSTART, *arguments, world_size=world_size)
    assert "precision.mode = fp16" in said
    assert "--precision.force true" in said


def test_a_good_folder_trains(tmp_path: Path, images: Path) -> None:
    assert train_well(tmp_path / "run", *of(images))["parameters"] == 145_578 - 8 * 65  # two classes


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_corrupt_image_is_named(tmp_path: Path, images: Path, world_size: int) -> None:
    broken = images / "train" / "dogs" / "2.png"
    broken.write_bytes(b"not a picture")
    assert str(broken) in refused(QUICKSTART, *of(images), "--output.dir", tmp_path / "run", world_size=world_size)


def test_a_split_without_images_is_named(tmp_path: Path, images: Path) -> None:
    shutil.rmtree(images / "test" / "cats")
    shutil.rmtree(images / "test" / "dogs")
    assert str(images / "test") in refused(QUICKSTART, *of(images), "--output.dir", tmp_path / "run")


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path, images: Path) -> None:
    train_well(tmp_path / "run", *SMALL)
    checkpoint, _ = newest_valid(tmp_path / "run" / "checkpoints")
    assert checkpoint is not None
    said = refused(
        QUICKSTART, *of(images), f"--checkpoint.resume={checkpoint.path}", "--output.dir", tmp_path / "other"
    )
    assert str(checkpoint.path) in said


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_disk_that_fills_leaves_the_previous_checkpoint(tmp_path: Path, world_size: int) -> None:
    train_well(tmp_path, *SMALL, "--training.epochs=1", world_size=world_size)
    said = refused(QUICKSTART, *SMALL, "--output.dir", tmp_path, world_size=world_size, file_limit=300_000)
    assert "step-00000020" in said
    checkpoint, passed = newest_valid(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert (checkpoint.step, passed) == (10, [])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000010"]
    assert read_json(tmp_path / "status.json")["exit_code"] == 2
    assert train_well(tmp_path, *SMALL, world_size=world_size)["steps"] == 20


def test_never_does_not_touch_an_earlier_run(tmp_path: Path) -> None:
    train_well(tmp_path, *SMALL)
    assert "checkpoint.resume = never" in refused(
        QUICKSTART, *SMALL, "--output.dir", tmp_path, "--checkpoint.resume=never"
    )
