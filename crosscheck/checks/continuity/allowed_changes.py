"""Says which changes between steps are allowed: state that is loaded, and what the trainer claims to change."""

from collections.abc import Collection, Iterator

from crosscheck.report.coverage import runs, spans
from crosscheck.trace.format import AVERAGE, LOSS_SCALE, PARAM, Part, Step


class AllowedChanges:
    """Says which changes are allowed, and remembers them for the notes of the report."""

    def __init__(self, claimed: Collection[str]) -> None:
        """`claimed`: the parameter or slots that may change between steps, as the trainer claims."""
        # Before which steps they changed.
        self._claimed: dict[str, set[int]] = {name: set() for name in claimed if name != LOSS_SCALE}
        self._loaded: dict[int, set[str]] = {}  # by step before which state was loaded: the slots that changed

    def add_part(self, part: Part) -> None:
        """Take in before which steps state was loaded."""
        self._loaded |= {step.step: set() for step in part.steps if step.state_loaded}

    def allows(self, step: Step, name: str) -> bool:
        """Return whether a quantity may change before a step, and remember that it did."""
        if step.state_loaded and name not in (PARAM, AVERAGE):
            self._loaded[step.step].add(name)
        elif name in self._claimed:
            self._claimed[name].add(step.step)
        else:
            return False
        return True

    def notes(self) -> Iterator[str]:
        """Say before which steps state was loaded, and what the trainer changed; also which of its claims were not needed."""
        same = [step for step, names in self._loaded.items() if not names]
        if same:
            yield f"state was loaded before {spans(runs(same))}: it is, bit for bit, what the step before had left"
        others = {step: names for step, names in self._loaded.items() if names}
        if others:
            names = ", ".join(sorted(set[str]().union(*others.values())))
            yield f"state was loaded before {spans(runs(others))}: it is not what the step before had left ({names})"
        for name, steps in self._claimed.items():
            if steps:
                yield (
                    f"{name} was changed before {spans(runs(sorted(steps)))}, outside the optimizer's step, as the trainer claims"
                )
            else:
                yield f"{name} never changed between steps, though the trainer claims that it may"
