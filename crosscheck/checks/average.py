"""Is the moving average of the parameters what its decay makes of the new parameters?"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from crosscheck.checks.check import Check
from crosscheck.criterion.profile import Profile
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

    A record that counts the updates says at which steps there was one; otherwise there is one at each applied step.
    """

    def start(self) -> None:
        self._kind, self._seen = self.claims.average, self.claims.averaged  # updates that the average has seen
        self._followed = False  # an update after the first, which has the kind of average in it
        self._updates: dict[int, int] = {}  # by step of the part
        self._options: dict[int, dict[str, Option]] = {}
        self.context.judge.batcher(MOVING_AVERAGE, _EQUAL if isinstance(self._kind, str) else _BY_DECAY)

    def part(self, part: Part, options: list[list[dict[str, Option]]]) -> None:
        self._options, self._updates = {}, {}
        for step, groups in zip(part.steps, options, strict=True):
            told = groups[0].get(AVERAGED) if groups else None
            updates = told - self._seen if isinstance(told, int) else int(step.applied)
            self._options[step.step], self._updates[step.step] = self._options_now(), updates
            self._followed |= updates == 1 and step.applied and self._seen > 0
            if updates > 1:
                self.context.notes.append(
                    f"the average was updated {updates} times at step {step.step}, of which one result is on record: "
                    "it is not checked there"
                )
            self._seen += updates

    def tensor(self, tensor: TensorBlock) -> None:
        average = tensor.slots.get(AVERAGE)
        if average is None or self._kind is None:
            return
        there = average.there_before & average.there_after
        updates = np.array([self._updates[step.step] for step in tensor.steps])
        as_step = replace(
            tensor,
            param=average,
            grad=tensor.param.after,
            has_grad=there & (updates == 1),
            options=[self._options[step.step] for step in tensor.steps],
            context={},
            slots={},
            extras={"previous": tensor.param.before},
        )
        self.answered = True
        self.context.judge.add(MOVING_AVERAGE, as_step)
        self.context.findings.add(_moved_alone(tensor, there & (updates == 0)))

    def finish(self) -> None:
        if self._kind is None:
            return
        untested = "" if self._followed else "only its first update is on record, which copies the parameters"
        if not self.answered:
            untested = "no average is on record; the recorder is to be given average="
        elif not self._seen:
            untested = "it was never updated on record"
        kind = self._kind if isinstance(self._kind, str) else f"{self._kind:g}"
        self.context.claimed("average", f"average = {kind}", untested)

    def _options_now(self) -> dict[str, Option]:
        if isinstance(self._kind, str):
            return {"decay": self._seen / (self._seen + 1), "seen": self._seen, "equal": True}
        return {"decay": self._kind, "seen": self._seen}


def _moved_alone(tensor: TensorBlock, still: NDArray[np.bool_]) -> Iterator[Finding]:
    """Yield a finding for each applied step among `still` at which the average changed, though nothing updated it."""
    average = tensor.slots[AVERAGE]
    for row in np.flatnonzero(still & np.any(average.before != average.after, axis=1)):
        if tensor.steps[row].applied:
            yield Finding(
                step=tensor.steps[row].step,
                tensor=tensor.info.name,
                slot=AVERAGE,
                cause="the average changed at a step at which nothing updated it",
                check="average",
            )
