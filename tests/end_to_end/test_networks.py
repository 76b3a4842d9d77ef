"""Other networks than the article's through the real trainer: batch norm on several ranks, dropout, exact resume, bad input."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from distrib.data.batches.normalize import Normalize
from distrib.data.batches.plan import Plan
from distrib.data.sources import synthetic
from distrib.inference.network import load
from distrib.predict import main as predict
from tests import networks
from tests.support import SMALL, checkpoint_of, read_json, tensor_bytes, train, train_well

DRAWN = (*SMALL, "--model.name=tests.networks:drawn", "--training.ema=0.9", "--training.accumulate=2")
FROZEN = (*SMALL, "--model.name=tests.networks:Frozen", "--training.ema=0.7")
SPEEDNET = (*SMALL, "--model.name=speednet", "--model.options.widths=[4, 6, 8]", "--training.ema=0.9")
RESNET = (*SMALL, "--model.name=resnet18", "--training.batch_size=8", "--data.train_images=16")
KEEP = ("--checkpoint.every_steps=3", "--checkpoint.keep=9")


def load_part(path: Path) -> dict[str, torch.Tensor]:
    opened: Any = safe_open(path, framework="pt")
    with opened as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)


def statistics(folder: Path, step: int, part: str = "model") -> dict[str, torch.Tensor]:
    tensors = load_part(checkpoint_of(folder, step) / f"{part}.safetensors")
    return {name: tensor for name, tensor in tensors.items() if "running_" in name}


@pytest.mark.parametrize(
    ("options", "world_size"),
    [(DRAWN, 2), (DRAWN, 1), (FROZEN, 2), (SPEEDNET, 2), (RESNET, 1)],
    ids=["drawn2", "drawn", "frozen2", "speednet2", "resnet18"],
)
def test_a_resumed_run_ends_with_the_same_bytes(options: tuple[str, ...], world_size: int, tmp_path: Path) -> None:
    straight, folder = tmp_path / "straight", tmp_path / "resumed"
    whole = train_well(straight, *options, *KEEP, world_size=world_size)
    middle = f"--checkpoint.resume={checkpoint_of(straight, 3)}"
    resumed = train_well(folder, *options, middle, world_size=world_size)
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    last = whole["steps"]
    assert tensor_bytes(checkpoint_of(folder, last)) == tensor_bytes(checkpoint_of(straight, last))
    assert whole["crosscheck"]["rank_checks"] > 0 or world_size == 1


def test_the_statistics_are_those_of_all_ranks(tmp_path: Path) -> None:
    """The first batch norm of the network keeps those of the last batch, which is smaller here and has nothing but its images."""
    options = (
        "--training.epochs=1",
        "--data.train_images=40",
        "--training.batch_size=32",
        "--training.last_batch=mask",
    )
    plan = Plan(num_images=40, batch_size=32, last_batch="mask", accumulate=1, seed=0, rank=0, world_size=1)
    data = synthetic.load(40, 1)
    normalize = Normalize(*data.moments(), torch.device("cpu"), channels_last=False)
    seen = normalize(data.train.images[plan.global_batch(2, torch.device("cpu"))])
    for world_size in (1, 2):
        folder = tmp_path / str(world_size)
        drawn = ("--model.name=tests.networks:drawn", "--data.augment=false")
        train_well(folder, *SMALL, *drawn, *options, world_size=world_size)
        mean = statistics(folder, 2)["0.running_mean"]
        assert torch.allclose(mean, seen.mean((0, 2, 3)), atol=1e-5)


def _left_alone(rank: int) -> None:
    del rank
    from distrib.ranks.running_statistics import RunningStatistics

    RunningStatistics.average = lambda self: None  # noqa: ARG005


def test_statistics_that_differ_between_ranks_end_the_run(tmp_path: Path) -> None:
    results = train(["quickstart", *DRAWN, "--output.dir", tmp_path], world_size=2, plant=_left_alone)
    assert [result.code for result in results] == [1, 1]
    assert "0.running_mean" in results[0].err


def test_a_buffer_that_each_rank_changes_its_own_way_ends_the_run(tmp_path: Path) -> None:
    arguments = ["quickstart", *SMALL, "--model.name=tests.networks:Counting", "--output.dir", tmp_path]
    results = train(arguments, world_size=2)
    assert [result.code for result in results] == [1, 1]
    assert "differ in scale" in results[0].err


def test_the_average_has_averaged_statistics(tmp_path: Path) -> None:
    whole = train_well(tmp_path, *DRAWN, *KEEP)
    now, average = (statistics(tmp_path, whole["steps"], part) for part in ("model", "ema"))
    for name, value in now.items():
        mean = average[f"module.{name}"]
        assert torch.isfinite(mean).all()
        assert not torch.equal(mean, value)
    assert 0 <= whole["test_accuracy"] <= 1


def test_an_average_leaves_whole_numbers_whole(tmp_path: Path) -> None:
    train_well(tmp_path, *FROZEN)
    average = load_part(checkpoint_of(tmp_path, 20) / "ema.safetensors")
    assert torch.equal(average["module.chosen"], torch.arange(64))
    assert average["module.used"].all()


def test_a_recorded_run_matches_and_skips_what_is_frozen(tmp_path: Path) -> None:
    record = ("--crosscheck.record=true", "--crosscheck.gradient_steps=[]")
    whole = train_well(tmp_path, *SMALL, "--model.name=tests.networks:Frozen", *record)
    assert whole["crosscheck"]["verdict"] == "match"
    report = read_json(tmp_path / "crosscheck.json")
    assert "head.weight" in str(report)
    assert "still.weight" not in str(report)


def test_the_summary_names_the_code(tmp_path: Path) -> None:
    assert networks.__file__ is not None
    code = Path(networks.__file__)
    found = train_well(tmp_path / "own", *SMALL)["network"]
    assert found == {"name": "article", "file": None, "sha256": None}
    found = train_well(tmp_path / "foreign", *DRAWN)["network"]
    digest = hashlib.sha256(code.read_bytes()).hexdigest()
    assert found == {"name": "tests.networks:drawn", "file": str(code), "sha256": digest}


def test_a_network_whose_operations_cannot_be_counted_trains_without_their_figures(tmp_path: Path) -> None:
    arguments = [*SMALL, "--training.epochs=1", "--model.name=tests.networks:Looking", "--output.dir", tmp_path]
    [result] = train(["quickstart", *arguments])
    assert (result.code, result.err) == (0, "")
    assert result.out.count("note: the FLOP of this network could not be counted") == 1
    summary = read_json(tmp_path / "summary.json")
    assert [summary[name] for name in ("flop", "flop_per_second", "share_of_peak")] == [None] * 3
    assert summary["images_per_second"] > 0
    assert "FLOP of" not in (tmp_path / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--model.name=resnet50",), ["model.name = 'resnet50'", "package.module:factory", "from the command line"]),
        (("--model.name=tests.networks:grey",), ["raised RuntimeError: "]),
        (("--model.name=tests.networks:exits",), ["model.name = tests.networks:exits", "raised SystemExit: usage"]),
        (("--model.options.width=3",), ["model.options", "article", "(num_classes: int = 10)"]),
        (("--model.options=3",), ["model.options = 3"]),
        (("--model.name=speednet", "--model.sync_batch_norm"), ["model.sync_batch_norm = true", "GPUs only"]),
        (("--model.name=speednet", "--training.batch_size=1"), ["leaves one image to a rank"]),
        (("--training.cuda_graph",), ["training.cuda_graph = true", "need an NVIDIA GPU", "this run is on cpu"]),
    ],
)
def test_bad_input(options: tuple[str, ...], words: list[str], tmp_path: Path) -> None:
    [result] = train(["quickstart", *SMALL, *options, "--output.dir", tmp_path])
    assert result.code == 2
    said = result.err
    assert said.startswith("bad input: ")
    assert said.count("\n") == 1, said
    for word in words:
        assert word in said
    status = tmp_path / "status.json"
    assert not status.exists() or read_json(status)["state"] == "failed"


def test_a_checkpoint_does_not_choose_what_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, image = tmp_path / "run", tmp_path / "image.png"
    train_well(run, *DRAWN)
    Image.new("RGB", (32, 32), (200, 30, 30)).save(image)
    assert predict([str(run), str(image)]) == 2
    said = capsys.readouterr().err
    assert "tests.networks:drawn, which is code that is not part of this program" in said
    assert "--network tests.networks:drawn" in said
    assert predict([str(run), str(image), "--network", "tests.networks:Frozen"]) == 2
    assert predict([str(run), str(image), "--network", "tests.networks:drawn"]) == 0
    assert capsys.readouterr().out.startswith(str(image))
    network = load(run, torch.device("cpu"), network="tests.networks:drawn").network
    average = load_part(checkpoint_of(run, 20) / "ema.safetensors")
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, average[f"module.{name}"])


def test_a_run_on_larger_images_is_used_on_images_of_that_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    larger = ("--data.image_size=40", "--training.epochs=1", "--data.train_images=64", "--crosscheck.record=false")
    folder = tmp_path / "run"
    train_well(folder, *SPEEDNET, *larger)
    classifier = load(folder, torch.device("cpu"))
    assert classifier.image_size == 40
    file = tmp_path / "large.png"
    Image.new("RGB", (200, 100), "#804020").save(file)
    assert predict([str(folder), str(file)]) == 0
    assert "large.png" in capsys.readouterr().out
    (result,) = train(["quickstart", *SMALL, *larger, "--output.dir", tmp_path / "article"])
    assert result.code == 2
    assert "data.image_size = 40: model.name = article takes images of 32 pixels" in result.err
