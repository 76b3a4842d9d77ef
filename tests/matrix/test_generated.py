"""A thousand more drawn mistakes and as many correct runs, beyond those of tests/crosscheck/test_generated.py."""

from pathlib import Path

import pytest

from tests.crosscheck.generated.runs import failures
from tests.crosscheck.test_generated import RUNS

MORE, CHUNK = 1000, 100


@pytest.mark.matrix
@pytest.mark.parametrize("first", range(RUNS, RUNS + MORE, CHUNK))
@pytest.mark.parametrize("faulty", [True, False], ids=["mistakes", "correct"])
def test_each_drawn_run_gets_the_right_verdict(faulty: bool, first: int, tmp_path: Path) -> None:
    wrong = failures(range(first, first + CHUNK), tmp_path, faulty=faulty)
    assert not wrong, "\n".join(wrong)
