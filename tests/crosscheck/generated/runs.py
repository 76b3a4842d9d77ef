"""Runs drawn by their seed: taken step by step, recorded, replayed, and held against the reference."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from torch.nn import Parameter

from crosscheck import Recorder, Report, TraceError, Verdict, replay
from tests.crosscheck.generated.catalogue import draw_mistakes
from tests.crosscheck.generated.mistaken import Mistaken, Planted
from tests.crosscheck.generated.settings import CLASSES, Setting, draw_setting
from tests.crosscheck.generated.trajectory import Trajectory, take_steps

PAIRS = 0.25
"""The share of faulty runs with two mistakes."""


@dataclass(frozen=True)
class Case:
    """A run that its seed describes wholly."""

    seed: int
    setting: Setting
    mistakes: tuple[Planted, ...]

    def __str__(self) -> str:
        return f"{self.seed}: {' and '.join(map(str, self.mistakes)) or 'correct'}; {self.setting}"


@dataclass
class Outcome:
    """What a run came to."""

    case: Case
    trajectory: Trajectory
    report: Report | None
    """None if the replay refused the trace."""
    refused: str = ""

    @property
    def visible(self) -> bool:
        """Whether a recorded number is further from the exact one than rounding can carry it."""
        return self.trajectory.excess > 1

    @property
    def can_tell(self) -> bool:
        """Whether each tensor moved by more than rounding explains, so that its rate can be told from another."""
        return min(self.trajectory.moved.values()) > 1

    @property
    def overstated(self) -> bool:
        """Whether the report says that it would have caught this mistake, though it has not.

        Judged where the mistake is one wrong number, in all tensors from the first step on, and is twice as large as the
        smallest error that the report says it would have caught.
        """
        if self.report is None or self.verdict is Verdict.MISMATCH or len(self.case.mistakes) != 1:
            return False
        (planted,) = self.case.mistakes
        everywhere = planted.tensor is None and planted.since == 1
        return everywhere and any(
            power[name].smallest < abs(factor - 1) / 2
            for power in self.report.power.values()
            for name, factor in planted.wrong.items()
            if name in power
        )

    @property
    def verdict(self) -> Verdict:
        """The verdict of the replay. To refuse a trace is to say that something is wrong."""
        return Verdict.MISMATCH if self.report is None else self.report.verdict

    @property
    def failure(self) -> str:
        """What is wrong with the verdict, or nothing."""
        if self.case.mistakes and self.visible and self.verdict is not Verdict.MISMATCH:
            return "a mistake that shows is not found"
        if self.overstated:
            return "the report overstates what it would have caught"
        if self.case.mistakes:
            return ""
        if self.visible:
            return "the reference is wrong: a correct run is outside of what it allows"
        if self.verdict is Verdict.MISMATCH or (self.verdict is Verdict.VACUOUS and self.can_tell):
            return "a correct run does not match"
        return ""

    def __str__(self) -> str:
        verdict = (
            f"refused ({self.refused})"
            if self.report is None
            else f"{self.report.verdict}, worst eta {self.report.max_eta:.3g}"
        )
        seen = f"excess {self.trajectory.excess:.3g} at {self.trajectory.where}"
        return f"{self.case}\n    {verdict}; {seen}"


def draw_case(seed: int, *, faulty: bool) -> Case:
    """Draw a run. Seeds 2n and 2n + 1 differ in the learning rate only: the second has a hundredth of the first's."""
    draw = random.Random(2 * (seed // 2) + faulty)  # noqa: S311 (no secret)
    setting = draw_setting(draw, seed // 2, hundredth=seed % 2 == 1)
    number = 0 if not faulty else 2 if draw.random() < PAIRS else 1
    return Case(seed, setting, draw_mistakes(draw, setting, number))


def build(case: Case, parameters: dict[str, Parameter], implementation: dict[str, bool] | None = None) -> Any:
    """Build the optimizer of the case: torch's own, with its mistakes."""
    setting = case.setting
    options = {**setting.all_options(), **(implementation or {})}
    groups, kind = setting.groups(parameters), CLASSES[setting.rule]
    return Mistaken(groups, kind, case.mistakes, **options) if case.mistakes else kind(groups, **options)


def execute(case: Case, folder: Path) -> Outcome:
    """Record a run, replay it and hold it against the reference."""
    parameters = case.setting.parameters()
    optimizer = build(case, parameters)
    steps: Any = "all" if case.setting.every_step_in_full else "sampled"
    with Recorder(optimizer, folder, rule=case.setting.rule, steps=steps, named_parameters=parameters.items()):
        trajectory = take_steps(case.setting, optimizer, parameters, watch=True)
    try:
        return Outcome(case, trajectory, replay(folder))
    except TraceError as error:
        return Outcome(case, trajectory, None, str(error))


def outcomes(seeds: Iterable[int], folder: Path, *, faulty: bool) -> Iterator[Outcome]:
    """Execute the runs of these seeds.

    No causes are looked for: other tests do that, and each kind of mistake would be compiled.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("crosscheck.checks.judging.judge.diagnose", _no_causes)
        for seed in seeds:
            yield execute(draw_case(seed, faulty=faulty), folder / f"{seed}")


def _no_causes(*about: object) -> list[str]:
    del about
    return []


def failures(seeds: Iterable[int], folder: Path, *, faulty: bool) -> list[str]:
    """Execute runs and return those whose verdict is wrong, each with the command that repeats it."""
    return [
        f"{outcome.failure}\n  {outcome}\n"
        f"  repeat it: python -m tests.crosscheck.generated {outcome.case.seed}{'' if faulty else ' --correct'}"
        for outcome in outcomes(seeds, folder, faulty=faulty)
        if outcome.failure
    ]
