"""The trainer records its steps, replays them, and closes with the verdict."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from threading import Timer

import pytest
import torch

from crosscheck import Recorder
from crosscheck.recorder.samples import sampler
from distrib.crosscheck import LiveReplay, replay
from distrib.display import Display
from distrib.errors import BadInput, RunFault
from distrib.job.stop import Stopped, StopRequest
from distrib.optim.update import Update
from distrib.training import summary
from tests.crosscheck.faulty import FaultySGD
from tests.end_to_end.faults import UPDATE, asked_in
from tests.support import (
    OVERFLOWING,
    QUICKSTART,
    SMALL,
    read_json,
    replace_attribute,
    train,
    train_well,
    wait_until,
)

RECORDED = (*SMALL, "--crosscheck.record", "--crosscheck.gradient_steps=[]")
NOBODY_ASKS = StopRequest(lambda _code, _reason: None)
ADAM = 'name = "adamw"\nlr = 1e-3\nweight_decay = 0.05'


def recipe(folder: Path, optimizer: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(f"[optimizer]\n{optimizer}\n")
    return path


@pytest.mark.parametrize("optimizer", ['name = "sgd"\nlr = 0.02\nmomentum = 0.9', ADAM], ids=["sgd", "adamw"])
def test_a_recorded_run_closes_with_its_verdict(tmp_path: Path, optimizer: str) -> None:
    folder = tmp_path / "run"
    [result] = train([recipe(tmp_path, optimizer), *RECORDED, "--output.dir", folder])
    assert (result.code, result.err) == (0, "")
    assert "cross-check: match: " in result.out.splitlines()[-1]
    assert "20 steps" in result.out.splitlines()[-1]
    found, report = read_json(folder / "summary.json")["crosscheck"], read_json(folder / "crosscheck.json")
    assert (found["verdict"], found["steps_checked"]) == ("match", 20)
    assert 0 < found["max_eta"] == report["max_eta"] < 16
    assert report["profiles"] == ["fused on cpu"]
    assert read_json(folder / "status.json")["state"] == "done"
    assert "<title>" in (folder / "crosscheck.html").read_text(encoding="utf-8")
    assert (folder / "index.html").read_text(encoding="utf-8").count('href="crosscheck.html"') == 2


def test_recording_changes_no_bit_of_the_run(tmp_path: Path) -> None:
    bare = train_well(tmp_path / "bare", *SMALL)
    recorded = train_well(tmp_path / "recorded", *RECORDED, "--crosscheck.steps=all", "--crosscheck.replay=false")
    assert recorded["weights_sha256"] == bare["weights_sha256"]
    assert bare["crosscheck"]["verdict"] == "not recorded"
    assert recorded["crosscheck"]["verdict"] == "not replayed"
    assert not (tmp_path / "bare" / "trace").exists()


@pytest.mark.parametrize("fused", ["true", "false"])
def test_steps_that_the_loss_scaler_skips_are_in_the_record(tmp_path: Path, fused: str) -> None:
    """At this loss scale the first steps overflow. The scaler calls a fused optimizer for them, and no other."""
    summary = train_well(tmp_path, *RECORDED, *OVERFLOWING, f"--optimizer.fused={fused}")
    assert summary["skipped_steps"] > 0
    assert summary["crosscheck"]["verdict"] == "match"
    assert summary["crosscheck"]["steps_checked"] == summary["applied_updates"]
    assert read_json(tmp_path / "crosscheck.json")["skipped"] == summary["skipped_steps"]


def test_rank_0_records_for_all(tmp_path: Path) -> None:
    summary = train_well(tmp_path, *RECORDED, world_size=2)
    assert summary["crosscheck"]["verdict"] == "match"
    assert summary["crosscheck"]["rank_checks"] == 2  # before each of the two checkpoints
    [segment] = (tmp_path / "trace").iterdir()
    header = read_json(segment / "header.json")
    assert (header["world_size"], header["rank"], header["seed"]) == (2, 0, 0)


def test_a_resumed_run_continues_its_trace(tmp_path: Path) -> None:
    arguments = [QUICKSTART, *RECORDED, "--training.ema=0.9", "--output.dir", tmp_path]
    [stopped] = train(arguments, plant=partial(asked_in, *UPDATE, 13))
    assert stopped.code == 75
    [result] = train(arguments)
    assert result.code == 0, result
    report = read_json(tmp_path / "crosscheck.json")
    assert report["verdict"] == "match"
    assert report["steps"] == 20
    assert any("resumed" in note for note in report["notes"])
    checked = {name for name, result in report["checks"].items() if result == "match"}
    assert checked == {"optimizer", "continuity", "clipping", "average", "learning rate", "options"}


def test_a_mismatch_fails_the_run(tmp_path: Path) -> None:
    """A run finds the trace of a faulty optimizer in the place of its own, as if its replay had been interrupted."""
    arguments = [QUICKSTART, *RECORDED, "--crosscheck.replay=false", "--output.dir", tmp_path]
    assert train(arguments)[0].code == 0
    shutil.rmtree(tmp_path / "trace")
    parameter = torch.nn.Parameter(torch.ones(9))
    optimizer = FaultySGD([parameter], "nesterov missing", lr=0.1, momentum=0.9, nesterov=True)
    with Recorder(optimizer, tmp_path / "trace", rule="sgd"):
        for _ in range(3):
            parameter.grad = torch.linspace(-1, 1, 9)
            optimizer.step()
    (tmp_path / "crosscheck.html").mkdir()  # a page that cannot be written costs the run nothing but the page
    [result] = train([*arguments, "--crosscheck.replay=true"])
    assert result.code == 1
    assert f"note: {tmp_path / 'crosscheck.html'} cannot be written" in result.out
    assert 'href="crosscheck.html"' not in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert result.err.startswith("fault: the cross-check found a mismatch")
    assert "Nesterov's look-ahead is missing" in result.out
    assert read_json(tmp_path / "summary.json")["crosscheck"]["verdict"] == "mismatch"
    status = read_json(tmp_path / "status.json")
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    assert "mismatch" in status["reason"]


def test_a_live_replay_stops_the_run_at_a_mismatch(tmp_path: Path) -> None:
    """The run would last hours. All ranks end as they do after a mismatch at the end, and the next start ends alike."""
    arguments = [QUICKSTART, *RECORDED, "--training.epochs=1000000", "--crosscheck.live=stop", "--output.dir", tmp_path]
    results = train(arguments, world_size=2, plant=wrong_after_10_steps)
    assert [result.code for result in results] == [1, 1]
    assert results[0].err.startswith("fault: the cross-check found a mismatch: mismatch: ")
    assert "by crosscheck.live = stop, and " in results[0].err
    assert "- step 11, " in results[0].out
    assert read_json(tmp_path / "crosscheck.json")["verdict"] == "mismatch"
    status = read_json(tmp_path / "status.json")
    assert (status["exit_code"], status["retry"]) == (1, False)
    assert list((tmp_path / "checkpoints").iterdir())


def wrong_after_10_steps(_rank: int) -> None:
    """Change weights between steps 10 and 11, commit parts of four steps, and leave the processor to the replay."""
    step = Update.step

    def slow_step(update: Update) -> bool:
        time.sleep(0.03)
        applied = step(update)
        if update.applied == 10:
            with torch.no_grad():
                next(update.model.parameters()).mul_(1.01)
        return applied

    replace_attribute(Update, "step", slow_step)
    replace_attribute(sampler, "TURN_STEPS", 4)


def test_a_live_replay_may_only_warn_and_may_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(main=True, quiet=False)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "trace").touch()
    with closing(LiveReplay("stop", tmp_path / "damaged", display)) as damaged:
        parameter = torch.nn.Parameter(torch.ones(9))
        optimizer = FaultySGD([parameter], "nesterov missing", lr=0.1, momentum=0.9, nesterov=True)
        with Recorder(optimizer, tmp_path / "wrong" / "trace", rule="sgd") as recorder:
            for _ in range(3):
                parameter.grad = torch.linspace(-1, 1, 9)
                optimizer.step()
            recorder.flush()
            with closing(LiveReplay("warn", tmp_path / "wrong", display)) as wrong:
                said = ""

                def ended() -> bool:
                    nonlocal said
                    assert not damaged.asks_to_stop()
                    assert not wrong.asks_to_stop()
                    said += capsys.readouterr().out
                    return said.count("training goes on") == 2

                assert wait_until(ended, 60)
    assert "warning: the live replay has ended, and training goes on without it: bad input: " in said
    assert "Nesterov's look-ahead is missing" in said
    assert "warning: the cross-check found a mismatch: mismatch: FaultySGD" in said


def test_a_live_replay_needs_a_record_and_jax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [result] = train([QUICKSTART, *SMALL, "--crosscheck.live=warn", "--output.dir", tmp_path])
    assert (result.code, "set crosscheck.record = true" in result.err) == (2, True)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]
    with pytest.raises(BadInput, match=r"crosscheck.live = stop replays with jax and optax, not installed here"):
        LiveReplay("stop", tmp_path, Display(main=True, quiet=False))


def test_without_jax_the_run_says_how_to_replay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]
    assert replay(tmp_path, Display(main=True, quiet=False), NOBODY_ASKS, step=7) is None
    said = capsys.readouterr().out
    assert "jax and optax is not installed" in said
    assert f"python -m crosscheck replay {tmp_path / 'trace'}" in said


def test_a_trace_that_cannot_be_replayed_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(RunFault, match="is not a trace"):
        replay(tmp_path, Display(main=True, quiet=False), NOBODY_ASKS, step=7)


def test_a_signal_to_all_processes_may_reach_the_replay_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(replayer: "subprocess.Popen[str]", _request: StopRequest) -> tuple[str, str]:
        replayer.terminate()
        Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return replayer.communicate()

    monkeypatch.setattr("distrib.crosscheck._until_asked", dies)
    with StopRequest(lambda _code, _reason: None) as request, pytest.raises(Stopped, match="SIGTERM") as stop:
        replay(tmp_path, Display(main=True, quiet=False), request, step=7)
    assert stop.value.step == 7


def test_a_full_disk_ends_the_run_with_its_name(tmp_path: Path) -> None:
    arguments = [QUICKSTART, *RECORDED, "--crosscheck.steps=all", "--output.dir", tmp_path]
    [result] = train(arguments, file_limit=8 * 2**20)
    assert result.code == 2
    assert "trace" in result.err
    assert "cannot be written" in result.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_refuses_the_trace(tmp_path: Path) -> None:
    (tmp_path / "trace").mkdir(mode=0o500)
    [result] = train([QUICKSTART, *RECORDED, "--output.dir", tmp_path])
    assert (result.code, "crosscheck.record" in result.err) == (2, True)


def test_a_file_in_the_place_of_the_trace(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("not a folder")
    for result in train([QUICKSTART, *RECORDED, "--output.dir", tmp_path], world_size=2):
        assert result.code == 2
    assert (tmp_path / "trace").read_text() == "not a folder"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--crosscheck.steps=some",), ("crosscheck.steps", "some", "sampled")),
        (("--crosscheck.steps=[0]",), ("crosscheck.steps",)),
        (
            ("--crosscheck.record", "--crosscheck.steps=[20, 21]"),
            ("crosscheck.steps = [20, 21]: the run has 20 steps, and so no step 21; name steps from 1 to 20",),
        ),
        (
            ("--crosscheck.record", "--crosscheck.gradient_steps=[1, 400]"),
            ("crosscheck.gradient_steps = [1, 400]: the run has 20 steps, and so no step 400",),
        ),
        (("--crosscheck.coordinates=0",), ("crosscheck.coordinates", "0")),
        (("--crosscheck.recrod=true",), ("crosscheck.recrod", "crosscheck.record")),
    ],
    ids=str,
)
def test_bad_input(tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    [result] = train([QUICKSTART, *SMALL, *arguments, "--output.dir", tmp_path])
    assert result.code == 2
    assert all(word in result.err for word in words), result.err


def test_gradients_of_steps_that_are_past_and_not_recorded_are_told(tmp_path: Path) -> None:
    options = [*RECORDED, "--crosscheck.replay=false", "--crosscheck.gradient_steps=[2]"]
    train_well(tmp_path, *options, "--training.epochs=1")
    arguments = [QUICKSTART, *options, "--output.dir", tmp_path]
    [result] = train([*arguments, "--training.epochs=2"])
    assert "gradient_steps" not in result.out, "step 2 is on record"
    [result] = train([*arguments, "--training.epochs=3", "--crosscheck.gradient_steps=[2, 5, 20, 21]"])
    assert result.code == 0
    assert (
        "note: crosscheck.gradient_steps = [2, 5, 20, 21]: this start continues after 20 steps, and of [5, 20]"
        in result.out
    )


def test_chosen_steps_are_recorded_whole(tmp_path: Path) -> None:
    train_well(tmp_path, *RECORDED, "--crosscheck.steps=[2, 5]", "--crosscheck.coordinates=7")
    report = json.loads((tmp_path / "crosscheck.json").read_text())
    whole, sampled = 2 * 2 * 145_578, 2 * 20 * 10 * 7  # parameters and one slot; ten tensors
    assert report["elements"] == whole + sampled


def test_a_disk_that_is_full_when_the_verdict_comes(tmp_path: Path) -> None:
    [result] = train([QUICKSTART, *RECORDED, "--output.dir", tmp_path], plant=full_when_the_verdict_comes)
    assert result.code == 2
    assert result.err == "bad input: summary.json cannot be written (full): free space or choose another output.dir\n"
    assert read_json(tmp_path / "status.json")["exit_code"] == 2


def full_when_the_verdict_comes(_rank: int) -> None:
    def full(_folder: Path, _report: object) -> None:
        raise OSError(errno.ENOSPC, "full", "summary.json")

    replace_attribute(summary, "add_verdict", full)
