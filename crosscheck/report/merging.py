"""Makes one report of several, such as those of several ranks. Each field has a rule here, or is given by the caller."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from crosscheck.report.report import Report
from crosscheck.report.survey import joined


def merged(reports: Sequence[Report], **given: Any) -> Report:
    """Return one report of several. `given`: the fields that are merged in another way wherever reports are merged.

    Raises TypeError if a field is neither given nor has a rule, so that none is forgotten.
    """
    worst = max(reports, key=lambda report: report.max_eta)
    found = {name: rule([getattr(report, name) for report in reports]) for name, rule in _RULES.items()}
    found |= {"max_eta": worst.max_eta, "worst": worst.worst, **given}
    forgotten = [field.name for field in fields(Report) if field.name not in found]
    if forgotten:
        raise TypeError(f"nothing says how several reports are merged in {', '.join(forgotten)}")
    return Report(**found)


def union(names: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Return all names, each once."""
    return tuple(dict.fromkeys(name for each in names for name in each))


def _first(values: Sequence[Any]) -> Any:
    return values[0]


def _largest_of_each(etas: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {slot: max(each.get(slot, 0.0) for each in etas) for slot in union(etas)}


_RULES: Mapping[str, Callable[[Sequence[Any]], Any]] = {
    "optimizer": _first,
    "rule": _first,
    "profiles": union,
    "own": union,
    "eta": _largest_of_each,
    "power": _first,
    "elements": sum,
    "out_of_range": sum,
    "undetermined": sum,
    "survey": joined,
    "options": _first,
    "versions": _first,
    "replayed_with": _first,
}
"""By field: what becomes of its values in all reports."""
