"""Was each parameter stepped with the options that were claimed for it?"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from crosscheck.checks.check import Check
from crosscheck.report import check_names
from crosscheck.report.finding import Finding
from crosscheck.trace.format import Option, Part


class GroupOptions(Check):
    """Compares the options of each tensor's group; the learning rate's schedule is another check's."""

    def start(self) -> None:
        self._claims = self.claims.options or {}
        self._last: dict[str, dict[str, Option]] = {}  # by tensor: what it was stepped with last

    def part(self, part: Part, options: list[list[dict[str, Option]]]) -> None:
        for step, groups in zip(part.steps, options, strict=True):
            for tensor in part.tensors:
                if tensor.name in self._claims:
                    self.context.findings.add(self._tensor(step.step, tensor.name, groups[tensor.group]))

    def finish(self) -> None:
        # Where no scheduler keeps initial_lr, a claimed lr is what the check of the learning rate starts from.
        others = any(option != "lr" for options in self._claims.values() for option in options)
        if others or self.answered:
            untested = "" if self.answered else "no step on record has these tensors with these options"
            self.context.claimed(check_names.OPTIONS, "options by tensor", untested)

    def _tensor(self, step: int, name: str, used: Mapping[str, Option]) -> Iterator[Finding]:
        """Yield a finding for each option that is not as claimed, where the options changed since the last look."""
        found = {option: used.get(_name_of(option)) for option in self._claims[name] if _name_of(option) in used}
        self.answered |= bool(found)
        if self._last.get(name) == found:
            return
        self._last[name] = found
        wrong = {option for option, value in found.items() if not _equal(value, self._claims[name][option])}
        for option in sorted(wrong):
            yield Finding(
                step=step,
                tensor=name,
                slot=option,
                recorded=_as_number(found[option]),
                expected=_as_number(self._claims[name][option]),
                cause=f"{option} is {found[option]!r}, claimed is {self._claims[name][option]!r}{self._whose(found)}",
                check=check_names.OPTIONS,
            )

    def _whose(self, found: Mapping[str, Option]) -> str:
        """Name the parameter whose claimed options these are, if there is one: then the groups were swapped."""
        for name, claimed in self._claims.items():
            if all(_equal(value, claimed.get(option)) for option, value in found.items()):
                return f": all its options are those claimed for {name}"
        return ""


def _name_of(option: str) -> str:
    """Return where torch keeps an option: lr follows the schedule, and what it starts from is initial_lr."""
    return "initial_lr" if option == "lr" else option


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return list(a) == list(b)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(a, float) and isinstance(b, float):
        return a in (b, float(np.float32(b)))  # a tensor of one number, as capturable wants it
    return a == b


def _as_number(value: Any) -> float | None:
    return float(value) if isinstance(value, bool | int | float) else None
