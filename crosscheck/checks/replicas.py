"""Do all ranks hold the same? Under data parallelism gradients, parameters, state and options must be equal, bit for bit."""

from crosscheck.checks.check import Check
from crosscheck.trace.format import Option, Part
from crosscheck.trace.tensors import TensorBlock


class Replicas(Check):
    """Hands what one rank recorded to the comparison of all, which concludes when the last rank was read."""

    def start(self) -> None:
        self._rank, self._number = self.segment.header.rank, len(self.earlier)

    def part(self, part: Part, options: list[list[dict[str, Option]]]) -> None:
        if self.context.comparison is not None:
            self.context.comparison.add_steps(self._rank, self._number, part, options)

    def tensor(self, tensor: TensorBlock) -> None:
        if self.context.comparison is not None:
            self.context.comparison.add_tensor(self._rank, self._number, tensor)
