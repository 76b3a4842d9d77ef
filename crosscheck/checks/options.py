"""Whether each parameter was stepped with the options that were claimed for it."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from crosscheck.report.report import Finding
from crosscheck.trace.format import Option, Step, TensorInfo

Options = Mapping[str, Option]


class OptionsCheck:
    """Follows the options of one segment's groups; the learning rate's schedule is another check's."""

    def __init__(self, claims: Mapping[str, Options] | None) -> None:
        self.claims = claims or {}
        self.compared = False
        self._last: dict[str, dict[str, Option]] = {}  # by tensor, as looked at last

    def look(
        self, tensors: tuple[TensorInfo, ...], steps: tuple[Step, ...], options: list[list[dict[str, Option]]]
    ) -> Iterator[Finding]:
        """Findings in the steps of one part. `options`: complete, by step and group."""
        for step, groups in zip(steps, options, strict=True):
            for tensor in tensors:
                if tensor.name in self.claims:
                    yield from self._tensor(step.step, tensor.name, groups[tensor.group])

    def _tensor(self, step: int, name: str, used: Options) -> Iterator[Finding]:
        found = {option: used.get(_name_of(option)) for option in self.claims[name] if _name_of(option) in used}
        self.compared |= bool(found)
        if self._last.get(name) == found:
            return
        self._last[name] = found
        wrong = {option for option, value in found.items() if not _equal(value, self.claims[name][option])}
        for option in sorted(wrong):
            yield Finding(
                step=step,
                tensor=name,
                slot=option,
                recorded=_as_number(found[option]),
                expected=_as_number(self.claims[name][option]),
                cause=f"{option} is {found[option]!r}, claimed is {self.claims[name][option]!r}{self._whose(found)}",
                check="options",
            )

    def _whose(self, found: Mapping[str, Option]) -> str:
        """Options that are right, but of another parameter, were swapped."""
        for name, claimed in self.claims.items():
            if all(_equal(value, claimed.get(option)) for option, value in found.items()):
                return f": all its options are those claimed for {name}"
        return ""


def _name_of(option: str) -> str:
    """lr follows the schedule; torch keeps what it starts from as initial_lr."""
    return "initial_lr" if option == "lr" else option


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return list(a) == list(b)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(a, float) and isinstance(b, float):
        return a in (b, float(np.float32(b)))  # a tensor of one number, as capturable wants it
    return a == b


def _as_number(value: Any) -> float | None:
    return float(value) if isinstance(value, bool | int | float) else None
