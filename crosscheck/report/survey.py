"""How eta is spread over a record: over steps, slots and tensors, and by size. However long the record is, this is short."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

COLUMNS = 200
"""Spans of steps, at most."""
TENSORS_DRAWN = 100
"""Tensors that are told over the steps, at most: the worst ones."""
TENSORS_LISTED = 2000
"""Tensors of which the largest eta of each slot is told, at most: the worst ones."""

Line = tuple[float | None, ...]
"""The largest eta of each span of steps; None where nothing was judged."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """The spread of eta. The spans of steps are all of one length, and begin at its multiples."""

    first: int
    """The first step of the first span."""
    width: int
    """How many steps a span has."""
    slots: dict[str, Line]
    tensors: dict[str, Line]
    """Of the tensors with the largest etas, the worst first."""
    octaves: dict[str, tuple[int, ...]]
    """By slot: how many elements have an eta of each size. The edges are the powers of two of `tolerance.OCTAVES`; the last
    number is of those whose eta is infinite."""
    largest: dict[str, dict[str, float]]
    """By tensor, the worst first, and slot: the largest eta."""
    num_tensors: int
    """Tensors of which anything was judged."""

    @property
    def num_spans(self) -> int:
        return max((len(line) for line in self.slots.values()), default=0)


def joined(surveys: Iterable[Survey | None]) -> Survey | None:
    """Return one survey of several records, such as those of several ranks; of each place the largest eta."""
    each = [survey for survey in surveys if survey is not None]
    if len(each) < 2:
        return each[0] if each else None
    filled = [survey for survey in each if survey.num_spans]
    width = max(survey.width for survey in each)
    first = min(((survey.first - 1) // width * width for survey in filled), default=0)
    end = max((survey.first - 1 + survey.num_spans * survey.width for survey in filled), default=0)
    while (end - 1) // width - first // width >= COLUMNS:
        width *= 2
        first = first // width * width
    spans = (end - 1) // width - first // width + 1

    def lines(of: Iterable[tuple[Survey, Mapping[str, Line]]]) -> dict[str, Line]:
        found: dict[str, list[float | None]] = {}
        for survey, named in of:
            for name, line in named.items():
                into = found.setdefault(name, [None] * spans)
                for number, eta in enumerate(line):
                    span = (survey.first - 1 + number * survey.width - first) // width
                    into[span] = eta if into[span] is None else max(into[span] or 0.0, eta or 0.0)
        return {name: tuple(line) for name, line in found.items()}

    largest: dict[str, dict[str, float]] = {}
    for survey in each:
        for name, by_slot in survey.largest.items():
            known = largest.setdefault(name, {})
            known |= {slot: max(eta, known.get(slot, 0.0)) for slot, eta in by_slot.items()}
    worst = sorted(largest, key=lambda name: -max(largest[name].values()))
    tensors = lines((survey, survey.tensors) for survey in each)
    return Survey(
        first=first + 1,
        width=width,
        slots=lines((survey, survey.slots) for survey in each),
        tensors={name: tensors[name] for name in [name for name in worst if name in tensors][:TENSORS_DRAWN]},
        octaves={
            slot: tuple(
                map(sum, zip(*(survey.octaves[slot] for survey in each if slot in survey.octaves), strict=True))
            )
            for slot in dict.fromkeys(slot for survey in each for slot in survey.octaves)
        },
        largest={name: largest[name] for name in worst[:TENSORS_LISTED]},
        num_tensors=max(len(worst), *(survey.num_tensors for survey in each)),
    )
