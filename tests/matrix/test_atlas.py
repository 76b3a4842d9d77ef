"""Tests the whole atlas: every combination of options, beyond those of tests/crosscheck/test_atlas.py."""

import pytest

from crosscheck.atlas import combinations, draw
from tests.crosscheck.test_atlas import check


@pytest.mark.matrix
@pytest.mark.timeout(600)
def test_all_of_it_agrees() -> None:
    """28 and 48 combinations, 3 implementations, 4 dtypes and 4 regimes of gradients give no false alarm."""
    table = draw()
    assert len(table.rows) == len(list(combinations())) == 28 + 48
    check(table)
    assert sum(row.stock_agrees for row in table.rows if row.rule == "sgd") == 15
    assert sum(row.stock_agrees for row in table.rows if row.rule != "sgd") == 16
