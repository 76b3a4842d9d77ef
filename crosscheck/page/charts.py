"""The charts of a report: places and words, which the template makes into SVG."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from crosscheck.page.scale import EtaAxis, Tick, class_of, number
from crosscheck.report.report import Report
from crosscheck.report.survey import Line, Survey
from crosscheck.tolerance import FAIL, OCTAVES, WARN

WIDTH, HEIGHT = 520, 278
LEFT, RIGHT, TOP, BOTTOM = 52, WIDTH - 8, 12, HEIGHT - 46
_LIMITS = ((WARN, "worth a look"), (FAIL, "wrong"))
_DOTS = 60  # spans up to which each has a dot


@dataclass(frozen=True, slots=True)
class Mark:
    """A limit, as a line across the chart."""

    at: float
    label: str
    kind: int  # the class that begins behind it


@dataclass(frozen=True, slots=True)
class Curve:
    """The largest eta of a slot over the steps."""

    name: str
    path: str
    dots: tuple[tuple[float, float, str], ...]  # place and words
    words: str


@dataclass(frozen=True, slots=True)
class Curves:
    """Eta over the steps."""

    curves: tuple[Curve, ...]
    heights: tuple[Tick, ...]
    steps: tuple[Tick, ...]
    limits: tuple[Mark, ...]
    first_finding: float | None

    @property
    def words(self) -> str:
        return " ".join(curve.words for curve in self.curves)


@dataclass(frozen=True, slots=True)
class Strip:
    """A tensor's row of the map: for each class the runs of columns that have it, as the path of a line."""

    name: str
    runs: tuple[tuple[int, str], ...]
    worst: float
    words: str


@dataclass(frozen=True, slots=True)
class Bar:
    """How many elements have an eta in a range."""

    label: str
    count: int
    x: float
    y: float
    width: float
    height: float
    kind: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """Etas by size. Heights are logarithms, so that one element shows beside a million."""

    bars: tuple[Bar, ...]
    limits: tuple[Mark, ...]
    sizes: tuple[Tick, ...]
    counts: tuple[Tick, ...]
    words: str


def curves(report: Report, survey: Survey) -> Curves | None:
    """Return eta over the steps by slot; None where nothing was judged."""
    there = [eta for line in survey.slots.values() for eta in line if eta is not None]
    if not there:
        return None
    axis = EtaAxis.around(there, TOP, BOTTOM)
    first = min((finding.step for finding in report.findings), default=None)
    return Curves(
        curves=tuple(_curve(name, line, survey, axis) for name, line in survey.slots.items()),
        heights=tuple(axis.ticks()),
        steps=tuple(_steps(survey)),
        limits=tuple(Mark(axis.at(limit), f"{limit:g}: {said}", class_of(2 * limit)) for limit, said in _LIMITS),
        first_finding=None
        if first is None
        else _x(min(max((first - survey.first) // survey.width, 0), survey.num_spans - 1), survey),
    )


def span(survey: Survey, column: int) -> str:
    """Return the steps of a column in words."""
    first = survey.first + column * survey.width
    return f"step {first:,}" if survey.width == 1 else f"steps {first:,} to {first + survey.width - 1:,}"


def strips(survey: Survey) -> list[Strip]:
    """Return the map: a row for each of the worst tensors."""
    return [_strip(name, line, survey) for name, line in survey.tensors.items()]


def histogram(survey: Survey) -> Histogram | None:
    """Return the distribution of eta over the elements of all slots; None where nothing was judged."""
    totals = [sum(counts) for counts in zip(*survey.octaves.values(), strict=True)]
    if not any(totals):
        return None
    if not totals[-1]:
        totals.pop()  # no infinity, no bar for it
    width = (RIGHT - LEFT) / len(totals)
    highest = math.log10(max(totals)) + 0.5

    def height(count: int) -> float:
        return round((math.log10(count) + 0.5) / highest * (BOTTOM - TOP), 1) if count else 0.0

    bars = tuple(
        Bar(
            label,
            count,
            round(LEFT + k * width + 1, 1),
            BOTTOM - height(count),
            round(width - 2, 1),
            height(count),
            kind,
        )
        for k, (count, (label, kind)) in enumerate(zip(totals, ranges(), strict=False))
    )
    edges = [LEFT + (k + 1) * width for k in range(len(OCTAVES))]
    powers = range(math.floor(math.log10(max(totals))) + 1)
    above = sum(bar.count for bar in bars if bar.kind >= class_of(2 * FAIL))
    return Histogram(
        bars=bars,
        limits=tuple(
            Mark(edges[OCTAVES.index(int(math.log2(limit)))], f"{limit:g}", class_of(2 * limit)) for limit, _ in _LIMITS
        ),
        sizes=tuple(
            Tick(edge, f"{2.0**power:g}" if power >= 0 else f"1/{2**-power}")
            for edge, power in zip(edges, OCTAVES, strict=True)
            if power % 2 == 0
        ),
        counts=tuple(
            Tick(BOTTOM - height(10**power), f"{10**power:,}" if power < 4 else f"1e{power}")
            for power in powers[:: 1 + len(powers) // 5]
        ),
        words=f"{above:,} of {sum(totals):,} elements are above {FAIL:g}.",
    )


def ranges() -> Iterator[tuple[str, int]]:
    """Yield of each size that is counted its words and its class."""
    edges = [f"{2.0**power:g}" if power >= 0 else f"1/{2**-power}" for power in OCTAVES]
    yield f"0 to {edges[0]}", 0
    for k, power in enumerate(OCTAVES[1:]):
        yield f"{edges[k]} to {edges[k + 1]}", class_of(2.0**power)
    yield f"above {edges[-1]}", class_of(2.0 ** (OCTAVES[-1] + 1))
    yield "infinite", class_of(math.inf)


def _x(column: int, survey: Survey) -> float:
    return round(LEFT + (column + 0.5) / survey.num_spans * (RIGHT - LEFT), 1)


def _curve(name: str, line: Line, survey: Survey, axis: EtaAxis) -> Curve:
    points = [(_x(column, survey), axis.at(eta), column, eta) for column, eta in enumerate(line) if eta is not None]
    path, last = "", -2
    for x, y, column, _ in points:
        path += f"{'L' if column == last + 1 else 'M'}{x:g} {y:g}"
        last = column
    alone = {column for _, _, column, _ in points}
    dots = tuple(
        (x, y, f"{name}, {span(survey, column)}: {number(eta)}")
        for x, y, column, eta in points
        if len(points) <= _DOTS or not {column - 1, column + 1} & alone or math.isinf(eta)
    )
    if not points:
        return Curve(name, "", (), f"{name}: nothing was judged.")
    _, _, column, worst = max(points, key=lambda point: point[3])
    return Curve(
        name, path, dots, f"{name}: largest {number(worst)} at {span(survey, column)}, last {number(points[-1][3])}."
    )


def _steps(survey: Survey) -> Iterator[Tick]:
    count = survey.num_spans
    for column in sorted({round(k * (count - 1) / 4) for k in range(5)}):
        yield Tick(_x(column, survey), f"{survey.first + column * survey.width:,}")


def _strip(name: str, line: Line, survey: Survey) -> Strip:
    kinds = [None if eta is None else class_of(eta) for eta in line]
    paths: dict[int, str] = {}
    for start, length, kind in _runs(kinds):
        if kind is not None:
            paths[kind] = f"{paths.get(kind, '')}M{start} .5h{length}"
    worst = max((eta for eta in line if eta is not None), default=0.0)
    column = line.index(worst) if worst in line else 0
    wrong = [column for column, kind in enumerate(kinds) if kind is not None and kind >= class_of(2 * FAIL)]
    words = f"{name}: largest eta {number(worst)} at {span(survey, column)}"
    words += (
        f"; above {FAIL:g} in {len(wrong)} of {len(line)} columns, first at {span(survey, wrong[0])}" if wrong else ""
    )
    return Strip(name, tuple(sorted(paths.items())), worst, words)


def _runs(kinds: Sequence[int | None]) -> Iterator[tuple[int, int, int | None]]:
    start = 0
    for column in range(1, len(kinds) + 1):
        if column == len(kinds) or kinds[column] != kinds[start]:
            yield start, column - start, kinds[start]
            start = column
