"""Which faults come when: a function of the seed alone."""

import random
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Phase = Literal["launch", "start-up", "training", "checkpoint", "replay"]

EVERY_STEPS = 15
"""checkpoint.every_steps."""
_MOST_STEPS = 40  # that a start is left before its fault


@dataclass(frozen=True, slots=True)
class Moment:
    """When a fault strikes a start."""

    phase: Phase
    steps: int = 0
    """Steps that this start takes first, in training and before the checkpoint that is waited for."""
    share: float = 0.0
    """Of the time that a start-up or a replay takes."""

    def __str__(self) -> str:
        if self.phase in ("training", "checkpoint"):
            return f"{self.phase} +{self.steps}"
        return self.phase if self.phase == "launch" else f"{self.phase} {self.share:.0%}"


@dataclass(frozen=True, slots=True)
class Fault:
    number: int
    kind: str
    moment: Moment
    seed: str
    """Of what else is drawn: the victim, the byte."""

    def random(self) -> random.Random:
        return random.Random(self.seed)  # noqa: S311 (faults, not secrets)


def draw(seed: int, count: int, kinds: Mapping[str, Sequence[Phase]], impossible: Container[str] = ()) -> list[Fault]:
    """`count` faults of the kinds, each about equally often, in the phases where it can strike.

    The replay comes last in a run, so its faults do. `impossible` kinds are left out of what is drawn.
    """
    rng = random.Random(seed)  # noqa: S311
    drawn: list[tuple[str, Moment]] = []
    while len(drawn) < count:
        deck = [(kind, _moment(rng, kinds[kind])) for kind in rng.sample(sorted(kinds), len(kinds))]
        drawn += [fault for fault in deck if fault[0] not in impossible][: count - len(drawn)]
    ordered = sorted(drawn, key=lambda fault: fault[1].phase == "replay")
    return [Fault(number, *fault, f"{seed}/{number}") for number, fault in enumerate(ordered, 1)]


def steps_needed(faults: Sequence[Fault]) -> int:
    """Steps of a run in which all of them find their moment, if a start reacts within a second or so."""
    reaction, of_two_starts = 40, 100
    return 2 * EVERY_STEPS + sum(
        fault.moment.steps + reaction + (of_two_starts if fault.kind == "started twice" else 0) for fault in faults
    )


def _moment(rng: random.Random, phases: Sequence[Phase]) -> Moment:
    phase = rng.choice(phases)
    if phase in ("training", "checkpoint"):
        return Moment(phase, steps=rng.randint(1, _MOST_STEPS))
    return Moment(phase, share=round(rng.random(), 2))
