"""Parts are written beside the training: nothing waits for a slow disk, and nothing is lost or left out unseen."""

import errno
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.optim import SGD

from crosscheck import Recorder, Verdict, replay
from crosscheck.trace.writer import SegmentWriter
from tests.crosscheck.recording import make_parameters, parts_of, take_steps
from tests.support import ROOT

PART = 128
SLOW = 0.5  # seconds
write_part = SegmentWriter.write


def slowly(writer: SegmentWriter, *part: Any) -> int:
    time.sleep(SLOW)
    return write_part(writer, *part)


def failing_at(number: int) -> Callable[..., int]:
    """Return a `write` that fails at the part of this number, counted from 1, and at no other."""
    calls: list[None] = []

    def write(writer: SegmentWriter, *part: Any) -> int:
        calls.append(None)
        if len(calls) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_part(writer, *part)

    return write


def train(recorder_of: Callable[[SGD], Recorder], steps: int) -> float:
    """Train under a recorder, which is closed. Return the seconds of the longest step."""
    parameters = make_parameters((40,))
    optimizer = SGD(parameters, lr=0.1, momentum=0.9)
    longest = 0.0
    with recorder_of(optimizer):
        for step in range(1, steps + 1):
            began = time.monotonic()
            take_steps(optimizer, parameters, [step])
            longest = max(longest, time.monotonic() - began)
    return longest


def test_training_does_not_wait_for_a_slow_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmentWriter, "write", slowly)
    assert train(lambda optimizer: Recorder(optimizer, tmp_path), PART + 20) < SLOW
    assert [len(part.steps) for part in parts_of(tmp_path)] == [PART, 20]
    assert replay(tmp_path).verdict is Verdict.MATCH


def test_a_flush_waits_until_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmentWriter, "write", slowly)
    parameters = make_parameters((40,))
    optimizer = SGD(parameters, lr=0.1, momentum=0.9)
    with Recorder(optimizer, tmp_path) as recorder:
        take_steps(optimizer, parameters, range(1, PART + 11))
        recorder.flush()
        assert [len(part.steps) for part in parts_of(tmp_path)] == [PART, 10]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("steps", [2 * PART + 10, 4 * PART], ids=["closed soon", "noticed in training"])
def test_no_part_follows_one_that_could_not_be_written(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SegmentWriter, "write", failing_at(2))
    with pytest.warns(UserWarning, match=rf"the record ends with step {PART}: .*No space left on device"):
        train(lambda optimizer: Recorder(optimizer, tmp_path), steps)
    assert [part.steps[-1].step for part in parts_of(tmp_path)] == [PART]
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH
    assert any("No space left on device" in line for line in report.warnings), report


def test_strict_raises_what_the_thread_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SegmentWriter, "write", failing_at(2))
    with pytest.raises(OSError, match="No space left on device"):
        train(lambda optimizer: Recorder(optimizer, tmp_path, strict=True), 4 * PART)
    assert [part.steps[-1].step for part in parts_of(tmp_path)] == [PART]


_UNCLOSED = """
import sys, torch
from torch.optim.swa_utils import AveragedModel
from crosscheck import Recorder
model = torch.nn.Linear(5, 3)
average = AveragedModel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
recorder = Recorder(optimizer, sys.argv[1], average=zip(model.parameters(), average.module.parameters()))
for _ in range(int(sys.argv[2])):
    model(torch.randn(4, 5)).sum().backward()
    optimizer.step()
"""


@pytest.mark.parametrize("steps", [PART, PART + 1, PART + 20])
def test_a_script_that_ends_where_a_part_is_due(steps: int, tmp_path: Path) -> None:
    """At the end of a process the thread has written what it had, and no other can be started."""
    subprocess.run([sys.executable, "-c", _UNCLOSED, str(tmp_path / "trace"), str(steps)], check=True, cwd=ROOT)
    assert sum(len(part.steps) for part in parts_of(tmp_path / "trace")) in (steps - 1, steps)


_FORKED = """
import os, sys, time, torch
from crosscheck import Recorder
from crosscheck.trace.writer import SegmentWriter
write = SegmentWriter.write
def slowly(*part):
    time.sleep(1.0)
    return write(*part)
SegmentWriter.write = slowly
weight = torch.nn.Parameter(torch.randn(6))
optimizer = torch.optim.SGD([weight], lr=0.1)
recorder = Recorder(optimizer, sys.argv[1])
def train(steps):
    for _ in range(steps):
        weight.grad = torch.randn(6)
        optimizer.step()
train(int(sys.argv[2]))
child = os.fork()
torch.manual_seed(child)
train(140)
recorder.close()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("before", [10, PART + 2], ids=["steps wait", "a part is being written"])
def test_a_process_that_is_forked_off_writes_nothing(before: int, tmp_path: Path) -> None:
    """It steps its copy of the optimizer, and has neither the thread nor the trace."""
    subprocess.run([sys.executable, "-c", _FORKED, str(tmp_path), str(before)], check=True, cwd=ROOT, timeout=300)
    report = replay(tmp_path)
    assert (report.verdict, report.steps) == (Verdict.MATCH, before + 140)


_COLLECTED_IN_THE_THREAD = """
import gc, sys, time, torch
from crosscheck import Recorder
from crosscheck.trace.writer import SegmentWriter
write = SegmentWriter.write
def after_a_collection(*part):
    time.sleep(0.5)
    gc.collect()
    return write(*part)
SegmentWriter.write = after_a_collection
def train():
    weight = torch.nn.Parameter(torch.randn(6))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    recorder = Recorder(optimizer, sys.argv[1])
    for _ in range(int(sys.argv[2])):
        weight.grad = torch.randn(6)
        optimizer.step()
train()
"""


@pytest.mark.parametrize("steps", [PART, PART + 1])
def test_a_recorder_that_is_collected_while_its_part_is_written(steps: int, tmp_path: Path) -> None:
    """The thread that writes is the one that collects: it must not wait for itself, and the rest follows."""
    script = [sys.executable, "-c", _COLLECTED_IN_THE_THREAD, str(tmp_path), str(steps)]
    subprocess.run(script, check=True, cwd=ROOT, timeout=300)
    report = replay(tmp_path)
    assert (report.verdict, report.steps) == (Verdict.MATCH, steps)
    assert (tmp_path / "segment-0001" / "end.json").exists()
