"""Is the moving average of the parameters what its decay makes of the new parameters?"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crosscheck.checks.check import Check
from crosscheck.checks.judging.bits import differ, finding
from crosscheck.criterion.profile import Profile
from crosscheck.report import check_names
from crosscheck.report.finding import Finding
from crosscheck.rules.average import MOVING_AVERAGE
from crosscheck.tolerance import FORMATS
from crosscheck.trace.format import AVERAGE, Option, Part
from crosscheck.trace.reserved_options import AVERAGED
from crosscheck.trace.tensors import TensorBlock

_BY_DECAY = Profile("plain")
_EQUAL = Profile("with a weight that torch may hold in float32", scalar_error=FORMATS["float32"].unit_roundoff)


class Average(Check):
    """Judges each update of a claimed moving average as if it were a step.

    A record that counts the updates says at which steps there was one, and it may be one that was skipped; otherwise there is
    one at each applied step.
    """

    def start(self) -> None:
        self._kind, self._seen = self.claims.average, self.claims.averaged  # updates that the average has seen
        self._recorded = self._updated = self._followed = False
        self._several: dict[int, int] = {}  # updates by step, where it had more than one
        self._updates: dict[int, int] = {}  # by step of the part
        self._options: dict[int, dict[str, Option]] = {}
        self.context.judge.batcher(MOVING_AVERAGE, _EQUAL if isinstance(self._kind, str) else _BY_DECAY)

    def part(self, part: Part, options: list[list[dict[str, Option]]]) -> None:
        self._options, self._updates = {}, {}
        for step, groups in zip(part.steps, options, strict=True):
            told = groups[0].get(AVERAGED) if groups else None
            updates = told - self._seen if isinstance(told, int) else int(step.applied)
            self._options[step.step], self._updates[step.step] = self._options_now(), updates
            self._updated |= updates > 0
            self._followed |= updates == 1 and self._seen > 0  # the first update does not show the kind of average
            if updates > 1:
                self._several[step.step] = updates
            self._seen += updates

    def tensor(self, tensor: TensorBlock) -> None:
        average = tensor.slots.get(AVERAGE)
        if average is None or self._kind is None:
            return
        there = average.there_before & average.there_after
        updates = np.array([self._updates[step.step] for step in tensor.steps])
        as_step = replace(
            tensor,
            # An update may follow a skipped step.
            steps=[step.model_copy(update={"applied": True}) for step in tensor.steps],
            param=average,
            grad=tensor.param.after,
            has_grad=there & (updates == 1),
            options=[self._options[step.step] for step in tensor.steps],
            context={},
            slots={},
            extras={"previous": tensor.param.before},
        )
        self._recorded = True
        self.answered |= bool(np.any(as_step.has_grad))
        self.context.judge.add(MOVING_AVERAGE, as_step)
        self.context.findings.add(_moved_alone(tensor, there & (updates == 0)))

    def finish(self) -> None:
        if self._kind is None:
            return
        if self._several:
            self.context.notes.append(_said_of(self._several))
        if not self._recorded:
            untested = "no average is on record; the recorder is to be given average="
        elif not self._updated:
            untested = "it was never updated on record"
        elif self._followed:
            untested = ""
        elif self._several:
            untested = "it was updated several times a step, of which one result is on record"
        else:
            untested = "only its first update is on record, which copies the parameters"
        kind = self._kind if isinstance(self._kind, str) else f"{self._kind:g}"
        self.context.claimed(check_names.AVERAGE, f"average = {kind}", untested)

    def _options_now(self) -> dict[str, Option]:
        if isinstance(self._kind, str):
            return {"decay": self._seen / (self._seen + 1), "seen": self._seen, "equal": True}
        return {"decay": self._kind, "seen": self._seen}


def _said_of(several: dict[int, int]) -> str:
    """Return a note on the steps at which the average was updated several times, given how often."""
    least, most = min(several.values()), max(several.values())
    times = f"{most} times" if least == most else f"{least} to {most} times"
    at = f"{len(several):,} steps from {min(several)} to {max(several)}" if len(several) > 1 else f"step {min(several)}"
    return f"the average was updated {times} at {at}, of which one result is on record: it is not checked there"


def _moved_alone(tensor: TensorBlock, still: NDArray[np.bool_]) -> Iterator[Finding]:
    """Yield a finding for each step among `still` at which the average changed, though nothing updated it."""
    average = tensor.slots[AVERAGE]
    for row in map(int, np.flatnonzero(still)):
        before, after = average.before[row], average.after[row]
        moved = differ(before, after)
        if moved.any():
            applied = tensor.steps[row].applied
            alone = "the average changed at a step at which nothing updated it"
            cause = alone if applied else f"{AVERAGE} changed on a skipped step"
            yield finding(tensor, row, AVERAGE, after, before, moved, cause)
