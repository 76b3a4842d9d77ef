"""The real trainer runs in one process, from the command line to the files that it leaves."""

import json
import shutil
import socket
from functools import partial
from pathlib import Path

import pytest

from distrib.checkpoint.store import newest_valid
from distrib.page.run_files import read_run
from distrib.page.timeline import events
from tests.end_to_end.faults import UPDATE, asked_in
from tests.support import (
    OVERFLOWING,
    QUICKSTART,
    SMALL,
    checkpoint_of,
    epochs,
    losses,
    read_json,
    steps,
    train,
    train_well,
)

SUMMARY_KEYS = {
    "test_accuracy", "test_loss", "train_loss", "epochs", "steps", "applied_updates", "skipped_steps",
    "images_per_second", "world_size", "device", "precision", "optimizer", "fused", "dataset", "seed",
    "best_test_accuracy", "best_step", "ended_early", "network", "parameters",
    "flop", "flop_per_second", "share_of_peak", "data_share", "peak_memory", "peak_device_memory",
    "resumed_from", "weights_sha256", "crosscheck",
}  # fmt: skip

SGD = ("--optimizer.name=sgd", "--optimizer.lr=0.02")


def test_a_run_leaves_what_the_design_promises(tmp_path: Path) -> None:
    [result] = train([QUICKSTART, *SMALL, "--output.dir", tmp_path])
    assert result.code == 0
    assert result.err == ""
    assert "160 training images, 2 epochs of 10 steps, global batch 16 on 1 process, " in result.out
    assert result.out.count("\nepoch ") == 2
    assert "done: test accuracy" in result.out
    assert " after 2 epochs (20 updates of fused SGD), " in result.out
    assert "skipped" not in result.out, "without a loss scale no step can be"
    assert str(tmp_path) in result.out.splitlines()[-1]
    summary = read_json(tmp_path / "summary.json")
    assert set(summary) == SUMMARY_KEYS
    assert (summary["steps"], summary["applied_updates"], summary["skipped_steps"]) == (20, 20, 0)
    assert (summary["world_size"], summary["parameters"], summary["dataset"]) == (1, 145_578, "synthetic")
    assert summary["fused"] is True
    assert summary["peak_device_memory"] is None, "a CPU has no memory of its own"
    assert summary["flop"] == 320 * 69_209_856
    assert summary["flop_per_second"] == pytest.approx(69_209_856 * summary["images_per_second"])
    share = summary["share_of_peak"]
    assert share is None or 0 < share <= 1, "none if the machine was busier while its peak was measured"
    assert 0 < summary["data_share"] < 1
    assert summary["peak_memory"] > 2**26
    assert 0 <= summary["test_accuracy"] <= 1
    status = read_json(tmp_path / "status.json")
    assert status.pop("launcher").startswith(socket.gethostname())
    assert status == {
        "state": "done",
        "exit_code": 0,
        "reason": "",
        "step": 20,
        "retry": False,
    }
    assert [line["step"] for line in steps(tmp_path)] == list(range(1, 21))
    assert all(0 < line["data_seconds"] < line["seconds"] for line in steps(tmp_path))
    assert [(line["epoch"], line["flop"]) for line in epochs(tmp_path)] == [(1, 160 * 69_209_856), (2, summary["flop"])]
    assert epochs(tmp_path)[1]["peak_memory"] <= summary["peak_memory"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_the_network_learns_the_drawn_shapes(tmp_path: Path) -> None:
    more = ("--data.train_images=3200", "--data.test_images=1000", "--training.epochs=3")
    summary = train_well(tmp_path, *SMALL, *more, "--optimizer.lr=0.03")
    assert summary["test_accuracy"] > 0.5, "chance is 0.1"


def test_the_resolved_configuration_repeats_the_run(tmp_path: Path) -> None:
    first = train_well(tmp_path / "a", *SMALL, "--training.ema=0.9", "--optimizer.lr=0.013")
    again = train_well(tmp_path / "b", recipe=tmp_path / "a" / "config.toml")
    assert first["weights_sha256"] == again["weights_sha256"]


@pytest.mark.parametrize("optimizer", [("sgd", "0.02"), ("adam", "0.0001")], ids=["sgd", "adam"])
def test_all_implementations_give_the_same_losses(tmp_path: Path, optimizer: tuple[str, str]) -> None:
    name, lr = optimizer
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'[optimizer]\nname = "{name}"\nlr = {lr}\n')
    size = ("--data.source=synthetic", "--data.train_images=1600", "--data.test_images=50")
    curves: list[list[float]] = []
    for implementation in (("--optimizer.fused=true",), ("--optimizer.foreach=true",), ("--optimizer.fused=false",)):
        folder = tmp_path / implementation[0].strip("-")
        steps = ("--training.batch_size=32", "--training.epochs=1")
        train_well(folder, *size, *steps, *implementation, recipe=recipe)
        curves.append(losses(folder))
    assert len(curves[0]) == 50
    assert curves[1] == pytest.approx(curves[0], abs=1e-5)
    assert curves[2] == pytest.approx(curves[0], abs=1e-5)


@pytest.mark.parametrize("parts", [2, 8])
def test_accumulation_changes_rounding_only(tmp_path: Path, parts: int) -> None:
    train_well(tmp_path / "whole", *SMALL)
    train_well(tmp_path / "parts", *SMALL, f"--training.accumulate={parts}")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-4)


def test_a_masked_last_batch_trains_on_every_image(tmp_path: Path) -> None:
    summary = train_well(tmp_path, *SMALL, "--training.batch_size=50", "--training.last_batch=mask")
    assert summary["steps"] == 2 * 4  # 50 + 50 + 50 + 10
    *whole, short = losses(tmp_path)[4:]
    assert summary["train_loss"] == pytest.approx((50 * sum(whole) + 10 * short) / 160, rel=1e-12)
    seconds = sum(line["seconds"] for line in steps(tmp_path))
    assert summary["images_per_second"] == pytest.approx(320 / seconds, rel=1e-3)
    facts = read_run(tmp_path).facts
    assert (facts.steps_per_epoch, facts.images_per_epoch) == (4, 160)


def test_options_of_the_update_path_work_together(tmp_path: Path) -> None:
    options = (
        "--training.ema=0.9",
        "--training.clip_norm=1",
        "--training.label_smoothing=0.1",
        "--training.accumulate=2",
    )
    summary = train_well(tmp_path, *SMALL, *options, "--training.deterministic=true", "--model.channels_last=false")
    assert summary["applied_updates"] == 20


def test_fp16_counts_the_steps_it_skips(tmp_path: Path) -> None:
    """The first loss scale is far too high, so the first steps overflow; then the run goes on."""
    [result] = train([QUICKSTART, *SMALL, *OVERFLOWING, "--output.dir", tmp_path])
    summary = read_json(tmp_path / "summary.json")
    assert summary["precision"] == "fp16"
    for words in (f"  skipped steps {summary['skipped_steps']}\n", f", {summary['skipped_steps']} skipped)"):
        assert words in result.out
    assert summary["skipped_steps"] >= 1
    assert summary["applied_updates"] + summary["skipped_steps"] == 20
    skipped = f"{summary['skipped_steps']} of 20 steps were skipped"
    assert skipped in (tmp_path / "index.html").read_text(encoding="utf-8")
    lines = steps(tmp_path)
    skipped = [line for line in lines if not line["applied"]]
    assert [line["gradient_norm"] for line in skipped] == [None] * len(skipped), "it has overflowed"
    rates = {line["applied_updates"]: line["lr"] for line in lines if line["applied"]}
    train_well(tmp_path / "float32", *SMALL)
    plain = {line["applied_updates"]: line["lr"] for line in steps(tmp_path / "float32")}
    assert rates == {n: lr for n, lr in plain.items() if n in rates}


def test_torch_compile_gives_the_same_losses(tmp_path: Path) -> None:
    train_well(tmp_path / "eager", *SMALL)
    train_well(tmp_path / "compiled", *SMALL, "--training.compile=true")
    assert losses(tmp_path / "compiled") == pytest.approx(losses(tmp_path / "eager"), rel=1e-3)


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    train_well(tmp_path, *SMALL, "--training.epochs=1")
    [result] = train([QUICKSTART, *SMALL, "--output.dir", tmp_path, "--optimizer.lr=1e30", "--training.clip_norm=none"])
    assert result.code == 1
    assert "the global loss is" in result.err
    assert "Traceback" not in result.err
    status = read_json(tmp_path / "status.json")
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    checkpoint, passed = newest_valid(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert (checkpoint.step, passed) == (10, [])


BREAKING = ("--training.clip_norm=none", "--optimizer.lr=1e30", "--optimizer.weight_decay=1e20")
"""Options with which an update leaves no weight finite, though the loss before it was."""


@pytest.mark.parametrize("world_size", [1, 2])
def test_weights_that_are_not_finite_take_no_checkpoint_s_place(tmp_path: Path, world_size: int) -> None:
    saving = ("--checkpoint.every_steps=1", "--checkpoint.keep=1", "--training.check_ranks_every=none")
    train_well(tmp_path, *SMALL, "--training.epochs=1", world_size=world_size)
    arguments = [QUICKSTART, *SMALL, *saving, "--output.dir", tmp_path]
    results = train([*arguments, *BREAKING], world_size=world_size)
    assert [result.code for result in results] == [1] * world_size
    said = results[0].err
    assert said.startswith("fault: step 11: ")
    assert said.count("\n") == 1, said
    assert f"{checkpoint_of(tmp_path, 10)} is kept: the same command with other values goes on from it" in said
    checkpoint, passed = newest_valid(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert (checkpoint.step, passed) == (10, [])
    results = train([*arguments, "--optimizer.lr=1e-3"], world_size=world_size)  # as the message says
    assert [result.code for result in results] == [0] * world_size
    assert f"continuing from {checkpoint.path}" in results[0].out


def test_a_run_does_not_end_well_with_weights_that_are_not_finite(tmp_path: Path) -> None:
    arguments = [QUICKSTART, *SMALL, "--training.epochs=1", "--data.train_images=16", "--output.dir", tmp_path]
    [result] = train([*arguments, *BREAKING])
    assert result.code == 1
    assert "there is none of an earlier step: the same command with other values starts anew" in result.err
    assert read_json(tmp_path / "status.json")["state"] == "failed"
    assert not (tmp_path / "summary.json").exists()
    assert newest_valid(tmp_path / "checkpoints") == (None, [])
    [result] = train([*arguments, "--optimizer.lr=1e-3"])
    assert result.code == 0


def test_a_test_loss_that_is_not_finite_is_told_and_ends_nothing(tmp_path: Path) -> None:
    summary = train_well(tmp_path, *SMALL, "--model.name=tests.networks:Certain")
    assert summary["test_loss"] is None
    lines = [
        json.loads(line, parse_constant=pytest.fail) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["test_loss"] for line in lines if line["kind"] == "epoch"] == [None, None]


def test_a_stopped_run_continues_to_the_same_weights(tmp_path: Path) -> None:
    options = (*SMALL, "--training.ema=0.95")
    straight = train_well(tmp_path / "straight", *options)
    folder = tmp_path / "stopped"
    # The ranks agree to stop before each update, so that the step after this one is the last.
    [result] = train([QUICKSTART, *options, "--output.dir", folder], plant=partial(asked_in, *UPDATE, 12))
    assert result.code == 75
    status = read_json(folder / "status.json")
    assert (status["state"], status["exit_code"], status["step"]) == ("stopped", 75, 13)
    assert "stopped on request" in (folder / "index.html").read_text(encoding="utf-8")
    resumed = train_well(folder, *options)
    assert resumed["weights_sha256"] == straight["weights_sha256"]
    assert (resumed["test_accuracy"], resumed["flop"]) == (straight["test_accuracy"], straight["flop"])
    assert resumed["train_loss"] == pytest.approx(straight["train_loss"])
    assert losses(folder) == losses(tmp_path / "straight")
    happened = [(event.kind, event.step) for event in events(read_run(folder))]
    assert happened == [("start", 0), ("stop", 13), ("resume", 13), ("done", 20)]


def test_a_complete_run_answers_for_its_own_configuration_only(tmp_path: Path) -> None:
    train_well(tmp_path, *SMALL)
    before = (tmp_path / "summary.json").read_bytes()
    [result] = train([QUICKSTART, *SMALL, "--output.dir", tmp_path])
    assert result.code == 0
    assert "complete" in result.out
    assert (tmp_path / "summary.json").read_bytes() == before
    [result] = train([QUICKSTART, *SMALL, "--optimizer.lr=0.01", "--output.dir", tmp_path])
    assert result.code == 2
    assert "done" not in result.out
    for words in ("optimizer.lr = 0.01 (0.02 then)", "set it back", "optimizer.lr is from the command line"):
        assert words in result.err
    assert (tmp_path / "summary.json").read_bytes() == before
    assert read_json(tmp_path / "status.json")["state"] == "done"
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "optimizer.lr = 0.01" not in page, "the refused start is no part of the run"
    shutil.rmtree(tmp_path / "checkpoints")
    [result] = train([QUICKSTART, *SMALL, "--output.dir", tmp_path])
    assert (result.code, (tmp_path / "summary.json").read_bytes()) == (2, before)
    assert read_json(tmp_path / "status.json")["state"] == "done"


def test_files_of_the_user_stay_as_they_were(tmp_path: Path) -> None:
    mine = {name: tmp_path / name for name in ("config.toml", "index.html", "summary.json", "metrics.jsonl")}
    for file in mine.values():
        file.write_text("mine")
    for more in ([], ["--dry-run"], []):  # the second time nothing that the first one left makes it the folder of a run
        [result] = train([QUICKSTART, *SMALL, "--output.dir", tmp_path, *more])
        assert result.code == 2
        assert all(name in result.err for name in mine)
        assert sorted(tmp_path.iterdir()) == sorted(mine.values())
        assert {file.read_text() for file in mine.values()} == {"mine"}


def test_quiet_shows_the_closing_lines_only(tmp_path: Path) -> None:
    [result] = train([QUICKSTART, *SMALL, "--output.dir", tmp_path, "--output.quiet=true"])
    assert [line.split(":")[0] for line in result.out.splitlines()] == ["done", "outputs"]
