"""Whatever the recorder cannot do, training goes on; one warning says why the record ends, and so does the replay."""

import errno
import gc
import json
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.optim import SGD, AdamW

from crosscheck import Recorder, UnsupportedOptimizer, Verdict, replay
from crosscheck.recorder.parts.pending import Pending
from crosscheck.recorder.samples.reader import SampleReader
from crosscheck.trace.writer import SegmentWriter
from tests.crosscheck.recording import feed, make_parameters, take_steps

Break = Callable[[pytest.MonkeyPatch, AdamW], object]


def full_disk(patch: pytest.MonkeyPatch, _: AdamW) -> None:
    def write(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    patch.setattr(SegmentWriter, "write", write)


def own_mistake(patch: pytest.MonkeyPatch, _: AdamW) -> None:
    def snapshot(_: SampleReader, step: int, *, before: bool) -> None:
        del step, before
        raise ZeroDivisionError("an exception of the recorder itself")

    patch.setattr(SampleReader, "snapshot", snapshot)


def state_in_another_format(_: pytest.MonkeyPatch, optimizer: AdamW) -> None:
    formats = iter([torch.float32])

    def keep_another_slot(*_: Any) -> None:
        dtype = next(formats, torch.float64)
        for parameter, state in optimizer.state.items():
            state["extra"] = torch.ones_like(parameter, dtype=dtype)

    optimizer.register_step_post_hook(keep_another_slot)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("harm", "says", "last"),
    [
        (full_disk, "No space left on device", 3),
        (own_mistake, "ZeroDivisionError: an exception of the recorder itself", 3),
        (state_in_another_format, "extra of group0.0 changed its format, from float32 to float64, by step 6", 5),
    ],
)
def test_training_goes_on(harm: Break, says: str, last: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(trace: Path | None) -> list[torch.Tensor]:
        parameters = make_parameters((20, 30), (5,))
        optimizer = AdamW(parameters, lr=0.01, foreach=False)
        recorder = None if trace is None else Recorder(optimizer, trace)
        take_steps(optimizer, parameters, range(1, 4))
        if recorder is not None:
            recorder.flush()
        with monkeypatch.context() as patch:
            harm(patch, optimizer)
            take_steps(optimizer, parameters, range(4, 7))
            if recorder is not None:
                recorder.flush()
        take_steps(optimizer, parameters, range(7, 9))
        if recorder is not None:
            recorder.close()
        return [parameter.detach() for parameter in parameters]

    undisturbed = train(None)
    with pytest.warns(UserWarning, match=rf"the record ends with step {last}: .*{says}.*; training goes on") as caught:
        watched = train(tmp_path)
    assert len([warning for warning in caught if "crosscheck" in str(warning.message)]) == 1
    assert all(torch.equal(*pair) for pair in zip(watched, undisturbed, strict=True))
    report = replay(tmp_path)
    assert report.steps == last
    assert {finding.slot for finding in report.findings} == ({"extra"} if harm is state_in_another_format else set())
    ends = f"the record ends with step {last}, and the run went on"
    assert any(ends in told and says in told for told in report.warnings)


def replace_parameter(_: pytest.MonkeyPatch, optimizer: AdamW) -> None:
    optimizer.param_groups[0]["params"] = make_parameters((20, 30), (5,))


HARMFUL: dict[str, tuple[Break, str]] = {
    "the record ends": (own_mistake, "the record ends with step 0"),
    "a parameter is replaced": (replace_parameter, "before step 1 .* was replaced by another parameter"),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_a_warning_names_the_line_of_the_user(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    harm, says = HARMFUL[name]
    optimizer = AdamW(make_parameters((20, 30), (5,)), lr=0.01)
    with Recorder(optimizer, tmp_path):
        harm(monkeypatch, optimizer)
        feed(optimizer.param_groups[0]["params"], 1)
        with pytest.warns(UserWarning, match=says) as caught:
            optimizer.step()
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("name", HARMFUL)
def test_a_warning_that_is_an_error_is_logged(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    harm, says = HARMFUL[name]
    optimizer = AdamW(make_parameters((20, 30), (5,)), lr=0.01)
    with Recorder(optimizer, tmp_path), warnings.catch_warnings():
        harm(monkeypatch, optimizer)
        warnings.simplefilter("error")
        take_steps(optimizer, optimizer.param_groups[0]["params"], (1, 2))
    assert optimizer.state[optimizer.param_groups[0]["params"][0]]["step"] == 2
    assert re.search(says, caplog.text)
    caplog.clear()


@pytest.mark.parametrize("harm", [full_disk, own_mistake])
def test_strict_raises(harm: Break, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = make_parameters((20, 30))
    optimizer = AdamW(parameters, lr=0.01)
    recorder = Recorder(optimizer, tmp_path, strict=True)
    harm(monkeypatch, optimizer)

    def train() -> None:
        take_steps(optimizer, parameters, [1])
        recorder.flush()

    with pytest.raises((OSError, ZeroDivisionError)):
        train()


@pytest.mark.filterwarnings("default")
def test_a_step_that_was_seen_in_part_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The samples of step 5 are there, and there is no memory for the whole tensors."""
    parameters = make_parameters((20, 30))
    optimizer = AdamW(parameters, lr=0.01)
    snapshot = SampleReader.snapshot

    def snapshot_unless_full(reader: SampleReader, step: int, *, before: bool) -> Any:
        if reader.sample.full and not before:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return snapshot(reader, step, before=before)

    with Recorder(optimizer, tmp_path, steps=[5]):
        take_steps(optimizer, parameters, range(1, 5))
        monkeypatch.setattr(SampleReader, "snapshot", snapshot_unless_full)
        with pytest.warns(UserWarning, match="the record ends with step 4: OutOfMemoryError: CUDA out of memory"):
            take_steps(optimizer, parameters, [5])
        take_steps(optimizer, parameters, [6])
    report = replay(tmp_path)
    assert (report.verdict, report.steps) == (Verdict.MATCH, 4)


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("within", "method"), [(Pending, "take"), (SegmentWriter, "write")])
def test_an_interrupted_commit_is_not_closed_on_purpose(
    within: type, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while a part is laid out or written; then the recorder is closed, as at the end of the process."""
    parameters = make_parameters((4, 3))
    optimizer = SGD(parameters, lr=0.1)
    recorder = Recorder(optimizer, tmp_path)
    take_steps(optimizer, parameters, range(1, 4))
    recorder.flush()
    take_steps(optimizer, parameters, range(4, 6))
    with monkeypatch.context() as patch:
        patch.setattr(within, method, interrupt)
        with pytest.raises(KeyboardInterrupt):
            recorder.flush()
    take_steps(optimizer, parameters, range(6, 8))
    recorder.close()
    assert not (tmp_path / "segment-0001" / "end.json").exists()
    report = replay(tmp_path)
    assert (report.verdict, report.steps) == (Verdict.MATCH, 3)


@pytest.mark.parametrize("averaged", [False, True])
def test_a_recorder_that_nobody_closed_writes_what_it_has(averaged: bool, tmp_path: Path) -> None:
    """A moving average that nobody can see any more is not missed: the step is left out."""
    parameters = make_parameters((4, 3))
    copies = [(parameter, parameter.detach().clone()) for parameter in parameters]
    optimizer = SGD(parameters, lr=0.1)
    recorder = Recorder(optimizer, tmp_path, average=copies if averaged else ())
    take_steps(optimizer, parameters, range(1, 6))
    del recorder, optimizer
    gc.collect()
    end = json.loads((tmp_path / "segment-0001" / "end.json").read_text())
    assert end == {"parts": 1, "last_step": 4 if averaged else 5, "stopped": None}
    assert replay(tmp_path).steps == (4 if averaged else 5)


def test_a_script_that_ends_without_close(tmp_path: Path) -> None:
    script = """
import sys, torch
from crosscheck.recorder import Recorder
weight = torch.nn.Parameter(torch.randn(6))
optimizer = torch.optim.SGD([weight], lr=0.1)
recorder = Recorder(optimizer, sys.argv[1])
for _ in range(4):
    weight.grad = torch.randn(6)
    optimizer.step()
raise SystemExit(5)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (5, "")
    assert replay(tmp_path).steps == 4


class AdamW8bit(AdamW):
    """As torchao and bitsandbytes call theirs."""


def test_state_in_bits_is_refused_when_attached(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOptimizer, match="AdamW8bit keeps its state in fewer bits"):
        Recorder(AdamW8bit([Parameter(torch.ones(3))]), tmp_path, rule="adamw")
