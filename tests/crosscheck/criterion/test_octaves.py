"""Etas are counted between powers of two, each power with what is below it."""

import math

import numpy as np
import pytest

from crosscheck.criterion.octaves import NUM_OCTAVES, count_octaves
from crosscheck.tolerance import FAIL, OCTAVES, WARN

EDGES = [2.0**power for power in OCTAVES]


def by_search(eta: float) -> int:
    return NUM_OCTAVES - 1 if math.isinf(eta) else int(np.searchsorted(EDGES, eta))


def test_the_limits_are_edges() -> None:
    assert {WARN, FAIL} <= set(EDGES)


@pytest.mark.parametrize(
    "eta", [0.0, 5e-324, 1e-300, *EDGES, *np.nextafter(EDGES, math.inf).tolist(), 3.0, 1e300, 1.7e308, math.inf]
)
def test_each_size_has_its_place(eta: float) -> None:
    counts = count_octaves(np.array([[eta]]), np.array([[True]]))
    assert np.flatnonzero(counts).tolist() == [by_search(eta)]


def test_what_is_not_judged_does_not_count_unless_it_has_an_eta() -> None:
    eta = np.abs(np.random.default_rng(0).standard_normal((50, 40))) ** 9
    eta[::3] = 0
    judged = np.random.default_rng(1).random(eta.shape) < 0.5
    expected = np.bincount([by_search(x) for x in eta[judged | (eta > 0)]], minlength=NUM_OCTAVES)
    assert count_octaves(eta, judged).tolist() == expected.tolist()
