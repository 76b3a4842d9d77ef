"""Is the moving average of the parameters what its decay makes of the new parameters?"""

from dataclasses import replace

from crosscheck.checks.check import Check
from crosscheck.criterion.profile import Profile
from crosscheck.rules.average import MOVING_AVERAGE
from crosscheck.trace.format import AVERAGE, Option, Part
from crosscheck.trace.tensors import TensorBlock

_PLAIN = Profile("plain")


class Average(Check):
    """Judges each update of a claimed moving average as if it were a step."""

    def start(self) -> None:
        self._decay, self._seen = self.claims.average, self.claims.averaged  # updates that the average has seen
        self._options: dict[int, dict[str, Option]] = {}  # by step of the part
        self.context.judge.batcher(MOVING_AVERAGE, _PLAIN)

    def part(self, part: Part, _: list[list[dict[str, Option]]]) -> None:
        self._options = {}
        for step in part.steps:
            self._options[step.step] = {"decay": self._decay, "seen": self._seen}
            self._seen += step.applied

    def tensor(self, tensor: TensorBlock) -> None:
        average = tensor.slots.get(AVERAGE)
        if average is None or self._decay is None:
            return
        as_step = replace(
            tensor,
            param=average,
            grad=tensor.param.after,
            has_grad=average.there_before & average.there_after,
            options=[self._options[step.step] for step in tensor.steps],
            context={},
            slots={},
            extras={"previous": tensor.param.before},
        )
        self.answered = True
        self.context.judge.add(MOVING_AVERAGE, as_step)
