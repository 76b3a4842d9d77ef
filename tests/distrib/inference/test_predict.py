"""`python -m distrib.predict`: what it says of images is what the run's own evaluation counted."""

import json
import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from distrib.checkpoint import store
from distrib.data.sources import synthetic
from distrib.inference.network import load
from distrib.predict import main
from tests.support import SMALL, read_json, train_well

COUNTS = {"train": 300, "test": 60}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of three classes, each with more of one colour; chance adds so much to all colours that some look like others."""
    root, draw = tmp_path_factory.mktemp("images"), numpy.random.default_rng(3)
    for name, count in COUNTS.items():
        for number in range(count):
            file = root / name / f"class {number % 3}" / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            colour = 110 + 40 * (numpy.arange(3) == number % 3) + draw.normal(0, 20, 3)
            pixels = (colour + draw.normal(0, 10, (32, 32, 3))).clip(0, 255).astype(numpy.uint8)
            Image.fromarray(pixels).save(file)
    return root


@pytest.fixture(
    scope="module",
    params=[(), ("--training.ema=0.5", "--training.tta=flip_shift")],
    ids=["weights", "their average, several views"],
)
def run(request: pytest.FixtureRequest, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    options = ["--data.source", f"folder:{images}", "--data.root", folder / "cache", "--training.epochs=4"]
    train_well(folder, *SMALL, *options, "--data.train_images=300", "--data.test_images=60", *request.param)
    return folder


def predict(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_it_is_as_right_as_the_evaluation_said(run: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = predict(capsys, run, images / "test", "--json")
    assert (code, err) == (0, "")
    found: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    assert len(found) == 60
    right = sum(Path(each["file"]).parent.name == each["class"] for each in found)
    assert right / 60 == pytest.approx(read_json(run / "summary.json")["test_accuracy"])
    assert 0.6 < right / 60 < 1, "nothing was learned, or all of it, so that this test cannot tell"
    for each in found:
        assert sum(each["probabilities"].values()) == pytest.approx(1, abs=1e-6)
        assert next(iter(each["probabilities"])) == each["class"]
    surprise = [-math.log(each["probabilities"][Path(each["file"]).parent.name]) for each in found]
    assert sum(surprise) / 60 == pytest.approx(read_json(run / "summary.json")["test_loss"], rel=1e-4)


def test_a_name_with_a_line_end_begins_no_line(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "a.png  owl 1.000\nb.png"
    odd.write_bytes(next((images / "test" / "class 1").iterdir()).read_bytes())
    code, out, _ = predict(capsys, run, odd)
    assert (code, out.count("\n")) == (0, 1)
    assert out.startswith(f"{tmp_path}/a.png  owl 1.000\\nb.png  class ")


def test_a_line_for_a_person(run: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = next((images / "test" / "class 1").iterdir())
    code, out, _ = predict(capsys, run, file, "--top", "2")
    assert code == 0
    assert out.startswith(f"{file}  class ")
    assert out.count("class ") == 3  # one in the path


def test_any_checkpoint_will_do(run: Path) -> None:
    newest = load(run, torch.device("cpu"))
    [older] = [path for path in store.candidates(run / "checkpoints") if path != newest.path][-1:]
    pixels = synthetic.load(100, 50).test.images[:8]
    assert not torch.equal(newest.probabilities(pixels), load(older, torch.device("cpu")).probabilities(pixels))


def test_bad_input(run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no image")
    image = next((images / "test" / "class 1").iterdir())
    for arguments, words in {
        (tmp_path / "nothing", image): "is neither the folder of a run",
        (run, tmp_path / "missing.png"): "missing.png: there is no such file or folder: give the path of an image",
        (run, tmp_path / "text.png"): "or take it out of those given",
        (run, tmp_path / "empty"): "holds no images",
        (run, image, "--top", "0"): "--top 0",
        (run,): "the following arguments are required: IMAGE",
    }.items():
        code, out, err = predict(capsys, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("bad input: ")
        assert words in err


def test_a_checkpoint_of_something_else(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = store.open_checkpoint(load(run, torch.device("cpu")).path)
    model = {"model": good.tensors("model")}
    for number, (change, words) in enumerate(
        [
            ({"inference": None}, "what no run writes"),
            (
                {"config": {**good.values["config"], "model.name": "other"}},
                "model.name: Value error, accepted are article",
            ),
            ({"inference": {**good.values["inference"], "classes": ["a", "b"]}}, "8.bias is (3,)"),
            ({"inference": {**good.values["inference"], "std": [0.0, 1.0, 1.0]}}, "inference.std.0"),
            ({"inference": {**good.values["inference"], "image_size": 64}}, "what no run writes"),
        ]
    ):
        (tmp_path / str(number)).mkdir()
        values = {**good.values, **change}
        saved = store.save(tmp_path / str(number) / "checkpoints", good.step, model, values, keep=1)
        code, _, err = predict(capsys, saved, images / "test")
        assert (code, err.count("\n")) == (2, 1), err
        assert words in err
