"""All checks look the same to the replay: a new one needs its file and a line in the list of checks."""

import pkgutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Self

import pytest
import torch

from crosscheck import Recorder, replay
from crosscheck import checks as room
from crosscheck.checks import CHECKS, load_checks
from crosscheck.checks.check import Check, Context
from crosscheck.trace.format import Option, Part
from crosscheck.trace.reader import Segment
from crosscheck.trace.tensors import TensorBlock
from tests.crosscheck.recording import make_parameters, take_steps


def test_every_check_is_in_the_list() -> None:
    loaded = load_checks()
    assert tuple(dict.fromkeys(name for name, _ in loaded)) == CHECKS
    for found in pkgutil.walk_packages(room.__path__, f"{room.__name__}."):
        import_module(found.name)
    written = {kind for kind in Check.__subclasses__() if kind.__module__.startswith(f"{room.__name__}.")}
    assert {kind for _, kind in loaded} == written


class Listing(Check):
    """Notes which parts and tensors it was handed."""

    def __init__(self, segment: Segment, context: Context, earlier: Sequence[Self]) -> None:
        super().__init__(segment, context, earlier)
        self.handed: list[str] = []

    def part(self, part: Part, options: list[list[dict[str, Option]]]) -> None:
        self.handed.append(f"steps {[step.step for step in part.steps]} at {options[0][0]['lr']}")

    def tensor(self, tensor: TensorBlock) -> None:
        self.handed.append(f"{tensor.info.name} of {len(tensor.steps)}")

    def finish(self) -> None:
        self.answered = True
        self.context.notes.append(", ".join(self.handed))


def test_a_check_is_handed_all_of_a_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = load_checks()
    monkeypatch.setattr("crosscheck.replayer.load_checks", lambda: (*kinds, ("listing", Listing)))
    monkeypatch.setattr("crosscheck.checks.conclusion.CHECKS", (*CHECKS, "listing"))
    parameters = make_parameters((3, 4), (5,))
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    with Recorder(optimizer, tmp_path / "trace", steps=[]) as recorder:
        take_steps(optimizer, parameters, (1, 2))
        recorder.flush()
        take_steps(optimizer, parameters, (3,))
    report = replay(tmp_path / "trace")
    assert report.notes[-1:] == (
        "steps [1, 2] at 0.1, group0.0 of 2, group0.1 of 2, steps [3] at 0.1, group0.0 of 1, group0.1 of 1",
    )
    assert report.checks["listing"] == "match"
