"""Plans which faults strike and when, as a function of the seed alone."""

import random
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Phase = Literal["launch", "start-up", "training", "checkpoint", "replay"]

EVERY_STEPS = 15
"""The value of checkpoint.every_steps."""
_MOST_STEPS = 40  # a start takes at most as many steps before its fault


@dataclass(frozen=True, slots=True)
class Moment:
    """When a fault strikes a start."""

    phase: Phase
    steps: int = 0
    """How many steps the start takes before the fault, or before the checkpoint that the fault waits for."""
    share: float = 0.0
    """How much of the time of a start-up or a replay passes before the fault, from 0 to 1."""

    def __str__(self) -> str:
        if self.phase in ("training", "checkpoint"):
            return f"{self.phase} +{self.steps}"
        return self.phase if self.phase == "launch" else f"{self.phase} {self.share:.0%}"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of the plan."""

    number: int
    kind: str
    moment: Moment
    seed: str
    """The seed from which the rest is drawn: the victim, the byte."""

    def random(self) -> random.Random:
        """Return a new generator, which draws the same at every call."""
        return random.Random(self.seed)  # noqa: S311 (faults, not secrets)


def draw(seed: int, count: int, kinds: Mapping[str, Sequence[Phase]], impossible: Container[str] = ()) -> list[Fault]:
    """Return `count` faults, of each kind about equally many, in the phases in which that kind can strike.

    Faults of the replay come last, because the replay is the end of a run. `impossible` kinds are drawn and then left out, so
    leaving them out does not change when the others strike.
    """
    rng = random.Random(seed)  # noqa: S311
    drawn: list[tuple[str, Moment]] = []
    while len(drawn) < count:
        deck = [(kind, _moment(rng, kinds[kind])) for kind in rng.sample(sorted(kinds), len(kinds))]
        drawn += [fault for fault in deck if fault[0] not in impossible][: count - len(drawn)]
    ordered = sorted(drawn, key=lambda fault: fault[1].phase == "replay")
    return [Fault(number, *fault, f"{seed}/{number}") for number, fault in enumerate(ordered, 1)]


def steps_needed(faults: Sequence[Fault]) -> int:
    """Return how many steps a run needs so that each fault finds its moment, if a start reacts within about a second."""
    reaction, of_two_starts = 40, 100
    return 2 * EVERY_STEPS + sum(
        fault.moment.steps + reaction + (of_two_starts if fault.kind == "started twice" else 0) for fault in faults
    )


def _moment(rng: random.Random, phases: Sequence[Phase]) -> Moment:
    phase = rng.choice(phases)
    if phase in ("training", "checkpoint"):
        return Moment(phase, steps=rng.randint(1, _MOST_STEPS))
    return Moment(phase, share=round(rng.random(), 2))
