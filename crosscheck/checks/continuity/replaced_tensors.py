"""Notes which tensors took the place of others while a run was recorded, and which were recorded no more."""

from collections.abc import Iterator

from crosscheck.checks.check import Check
from crosscheck.trace.format import Option, Part


class ReplacedTensors(Check):
    """Notes the tensors that come and go from part to part; neither is wrong."""

    def start(self) -> None:
        self._tensors: dict[int, str] = {}  # the names of those in the part before

    def part(self, part: Part, _: list[list[dict[str, Option]]]) -> None:
        before = self._tensors
        present = dict.fromkeys(entry.tensor for block in part.blocks for entry in block.tensors)
        if self.segment.samples_change:
            present = dict.fromkeys(number for number, info in enumerate(part.tensors) if info.stepped)
        self._tensors = {number: part.tensors[number].name for number in present}
        self.context.notes += self._came_and_went(part, before)

    def _came_and_went(self, part: Part, before: dict[int, str]) -> Iterator[str]:
        """Say which tensors of this part are new, and which of the part before are not in it."""
        first, gone = part.steps[0].step, dict(before)
        for number in sorted(self._tensors):
            now = part.tensors[number]
            if now.replaces is not None and number not in gone:
                was = part.tensors[now.replaces]
                gone.pop(now.replaces, None)
                how = "another parameter took its place"
                if (was.shape, was.dtype) != (now.shape, now.dtype):
                    how = f"it was {was.dtype} {list(was.shape)} and is {now.dtype} {list(now.shape)} from there on"
                yield f"before step {first} {was.name} was replaced: {how}, recorded as {now.name}"
        for name in (name for number, name in gone.items() if number not in self._tensors):
            yield f"{name} is not recorded from step {first} on: the optimizer does not step it any more"
