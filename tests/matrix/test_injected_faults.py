"""Whatever the system answers to any one call that changes a file of a run, and wherever the run is killed: the next start
ends with the bytes of a run that nothing disturbed, and its trace with a match.

One run is traced first, which finds the calls. `make matrix` injects every fault at every call; `make test` takes each
fault once.
"""

import errno
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from crosscheck import Verdict, replay
from distrib.files import NEEDS_USER, TRANSIENT
from tests import strace
from tests.strace import Call
from tests.support import QUICKSTART, Result, checkpoint_of, losses, read_json, tensor_bytes, train

RUN = (
    *("--data.source=synthetic", "--data.train_images=32", "--data.test_images=10", "--training.batch_size=8"),
    *("--training.epochs=2", "--training.threads=1", "--checkpoint.every_steps=3", "--checkpoint.keep=2"),
    *("--crosscheck.replay=false", "--crosscheck.gradient_steps=[1]"),
)
STEPS = 8
KILLED = "killed"
ERRORS = (
    *(errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EBUSY),
    *(errno.ENFILE, errno.ENOMEM, errno.EROFS, errno.ESTALE),
)
FAULTS = (KILLED, *(errno.errorcode[number] for number in ERRORS))
PIECES = 6  # of the calls, so that several workers have something to do
NAMES = ",".join(strace.MUTATING)


class Undisturbed(NamedTuple):
    """What a run leaves that nothing disturbs, and the calls by which it changed its files."""

    weights: dict[str, bytes]
    losses: list[float]
    calls: list[Call]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    if reason := strace.why_not():
        pytest.skip(reason)
    place = tmp_path_factory.mktemp("undisturbed")
    [result] = run(place, "")
    assert result.code == 0, result
    folder = place / "run"
    found = [call for call in strace.calls(place / "log", folder) if call.changes]
    assert {"fsync", "rename", "write", "mkdir"} <= {call.name for call in found}
    return Undisturbed(tensor_bytes(checkpoint_of(folder, STEPS)), losses(folder), found)


def run(place: Path, injection: str) -> list[Result]:
    """Train in `place/run` under strace."""
    plant = partial(strace.plant, place / "log", NAMES, injection)
    told = {"TWINSTEP_STATUS": str(place / "told.json")}
    return train([QUICKSTART, *RUN, "--output.dir", place / "run"], plant=plant, environment=told)


@pytest.mark.matrix
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("piece", range(PIECES))
@pytest.mark.parametrize("fault", FAULTS)
def test_any_fault_at_any_call(
    tmp_path: Path, undisturbed: Undisturbed, fault: str, piece: int, record_property: Callable[[str, object], None]
) -> None:
    calls = undisturbed.calls[piece::PIECES]
    problems = [
        f"{fault} at {call}: {problem}"
        for number, call in enumerate(calls)
        if (problem := attack(tmp_path / str(number), undisturbed, call, fault))
    ]
    record_property("calls", len(calls))
    assert not problems, "\n".join(problems)


def test_each_fault_at_a_call_of_another_name(tmp_path: Path, undisturbed: Undisturbed) -> None:
    """Each fault meets one of the names, at a call in the middle of the run."""
    names = sorted({call.name for call in undisturbed.calls})
    problems: list[str] = []
    for name, fault in zip(names, FAULTS, strict=False):
        its = [call for call in undisturbed.calls if call.name == name]
        call = its[len(its) // 2]
        problem = attack(tmp_path / name, undisturbed, call, fault)
        problems += [f"{fault} at {call}: {problem}"] if problem else []
    assert not problems, "\n".join(problems)


def attack(place: Path, undisturbed: Undisturbed, call: Call, fault: str) -> str:
    """Inject one fault into a run and start it again. Return what is wrong; empty if nothing is."""
    place.mkdir()
    how = "signal=KILL" if fault == KILLED else f"error={fault}"
    [result] = run(place, f"{call.name}:{how}:when={call.number}")
    folder = place / "run"
    if fault != KILLED and not any(made.injected for made in strace.calls(place / "log", folder)):
        return "the fault met no file of the run"
    problem = _ended_wrongly(place, result, fault)
    if problem:
        return f"{problem}: {result}"
    [again] = train([QUICKSTART, *RUN, "--output.dir", folder])
    if again.code != 0:
        return f"the next start ended with {again}"
    if tensor_bytes(checkpoint_of(folder, STEPS)) != undisturbed.weights:
        return f"other bytes after {result}"
    if losses(folder) != undisturbed.losses:
        return f"other lines in metrics.jsonl after {result}"
    report = replay(folder)
    return "" if report.verdict is Verdict.MATCH else f"after {result}: {report}"


def _ended_wrongly(place: Path, result: Result, fault: str) -> str:
    """Return what is wrong with how a run ended that met the fault; empty if nothing is."""
    if fault == KILLED:
        return "" if result.code == -signal.SIGKILL else "it was not killed"
    number = getattr(errno, fault)
    if number in TRANSIENT:
        return "" if result.code == 0 else "what may pass by itself was not tried again"
    if result.code == 0:
        return ""
    wanted = 2 if number in NEEDS_USER else 1
    start = {1: "fault: ", 2: "bad input: "}[wanted]
    if result.code != wanted or not result.err.startswith(start) or result.err.count("\n") != 1:
        return f"not one sentence, or not {wanted}"
    if os.strerror(number) not in result.err or str(place / "run") not in result.err:
        return "it does not say the file, or the system's words"
    told = read_json(place / "told.json")
    return "" if (told["exit_code"], told["retry"]) == (wanted, wanted == 1) else f"the status says {told}"
