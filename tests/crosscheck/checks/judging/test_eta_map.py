"""The map of eta says of each place what the rows in it say, in a table that stays small."""

import math
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from crosscheck.checks.judging import eta_map
from crosscheck.checks.judging.eta_map import EtaMap
from crosscheck.criterion.octaves import NUM_OCTAVES
from crosscheck.report.survey import COLUMNS, TENSORS_DRAWN, TENSORS_LISTED, Survey, joined

SLOTS = ("param", "exp_avg")
# Tensor, step, and of each slot the eta, or None where nothing is judged.
Row = tuple[str, int, tuple[float | None, ...]]


def batch(rows: Iterable[Row]) -> tuple[Any, Any]:
    """Return a batch and what became of it, with a row of padding."""
    rows = list(rows)
    origins = [
        SimpleNamespace(block=SimpleNamespace(info=SimpleNamespace(name=name)), step=step) for name, step, _ in rows
    ]
    padding = [(math.inf,) * len(SLOTS)]
    etas = np.array([[eta or 0.0 for eta in its] for _, _, its in rows] + padding)
    checked = np.array([[int(eta is not None) for eta in its] for _, _, its in rows] + [[0] * len(SLOTS)])
    octaves = np.zeros((len(SLOTS), NUM_OCTAVES), np.int64)
    octaves[:, 0] = len(rows)
    return SimpleNamespace(origins=origins, outputs=SLOTS), SimpleNamespace(eta=etas, checked=checked, octaves=octaves)


def survey_of(rows: list[Row], size: int = 100) -> Survey:
    found = EtaMap()
    for start in range(0, len(rows), size):
        found.add(*batch(rows[start : start + size]))
    return found.survey()


def random_rows(seed: int, steps: Iterable[int], tensors: int) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [
        (
            f"tensor {rng.integers(tensors)}",
            step,
            tuple(None if rng.random() < 0.2 else float(rng.exponential()) for _ in SLOTS),
        )
        for step in steps
    ]


def expect(survey: Survey, rows: list[Row]) -> None:
    """Check every number of the survey against the rows themselves."""
    assert survey.num_spans <= COLUMNS
    assert (survey.first - 1) % survey.width == 0
    lines: dict[tuple[str, int], float] = {}
    largest: dict[str, dict[str, float]] = {}
    for name, step, etas in rows:
        column = (step - survey.first) // survey.width
        assert 0 <= column < survey.num_spans
        for slot, eta in zip(SLOTS, etas, strict=True):
            if eta is not None:
                for line in (f"slot {slot}", name):
                    lines[line, column] = max(eta, lines.get((line, column), 0.0))
                largest.setdefault(name, {})[slot] = max(eta, largest.get(name, {}).get(slot, 0.0))
    told = {f"slot {slot}": line for slot, line in survey.slots.items()} | survey.tensors
    for name, line in told.items():
        for column, eta in enumerate(line):
            assert (lines.get((name, column)) is None) == (eta is None)
            assert eta is None or eta == pytest.approx(lines[name, column], rel=1e-3)
    worst = sorted((max(each.values()) for each in largest.values()), reverse=True)
    assert [max(x for x in line if x is not None) for line in survey.tensors.values()] == pytest.approx(
        worst[:TENSORS_DRAWN], rel=1e-3
    )
    assert len(survey.largest) == min(len(largest), TENSORS_LISTED)
    assert all(etas == pytest.approx(largest[name], rel=1e-3) for name, etas in survey.largest.items())
    assert survey.num_tensors == len(largest)


@pytest.mark.parametrize(
    ("steps", "width"),
    [
        ([7], 1),
        (range(1, COLUMNS + 1), 1),
        (range(1, COLUMNS + 2), 2),
        (range(5_000, 6_000), 8),
        ([*range(900, 1000), *range(1, 1000, 7)], 8),
        ([1, 2**40, 3], 2**33),
    ],
    ids=["one step", "as many as fit", "one more", "from the middle", "resumed earlier", "far apart"],
)
def test_steps_are_joined_until_they_fit(steps: Iterable[int], width: int) -> None:
    rows = random_rows(0, steps, 20)
    survey = survey_of(rows)
    assert survey.width == width
    expect(survey, rows)


def test_only_the_worst_of_many_tensors_are_told() -> None:
    rows = random_rows(1, range(1, 9001), 3000)
    expect(survey_of(rows, 256), rows)


def test_many_tensors_make_the_columns_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eta_map, "_CELLS", 1024)
    rows = random_rows(2, range(1, 401), 150)
    survey = survey_of(rows, 16)
    assert survey.num_spans <= 1024 // 100
    expect(survey, rows)


def test_infinite_stays_infinite_and_nothing_stays_nothing() -> None:
    survey = survey_of([("a", 1, (math.inf, None)), ("b", 2, (None, None)), ("c", 3, (0.0, 1e300))])
    assert survey.slots == {"param": (math.inf, None, 0.0), "exp_avg": (None, None, 1e300)}
    assert list(survey.tensors) == ["a", "c"]
    assert survey.octaves == {slot: (3, *[0] * (NUM_OCTAVES - 1)) for slot in SLOTS}


def test_a_record_of_nothing() -> None:
    survey = EtaMap().survey()
    assert (survey.num_spans, survey.slots, survey.tensors, survey.num_tensors) == (0, {}, {}, 0)
    assert joined([survey, survey, None]) == survey


@pytest.mark.parametrize(
    "steps", [(range(1, 50), range(30, 90)), (range(1, 50), range(10_000, 10_500)), ([3], range(1, 2000))]
)
def test_joined_surveys_are_the_survey_of_both(steps: tuple[Iterable[int], Iterable[int]]) -> None:
    first, second = (random_rows(seed, its, 30) for seed, its in enumerate(steps))
    both = joined([survey_of(first), None, survey_of(second)])
    assert both is not None
    expect(both, [*first, *second])
    assert both.octaves["param"][0] == len(first) + len(second)
