"""No drawn mistake that shows in the numbers escapes, and no drawn correct run is blamed."""

from pathlib import Path

import pytest

from tests.crosscheck.generated.runs import failures

RUNS, CHUNK = 100, 50
"""`make matrix` takes more: see tests/matrix/test_generated.py."""

# One worker takes all of them, because each would compile the same formulas.
pytestmark = pytest.mark.xdist_group("generated")


@pytest.mark.parametrize("first", range(0, RUNS, CHUNK))
@pytest.mark.parametrize("faulty", [True, False], ids=["mistakes", "correct"])
def test_each_drawn_run_gets_the_right_verdict(faulty: bool, first: int, tmp_path: Path) -> None:
    wrong = failures(range(first, first + CHUNK), tmp_path, faulty=faulty)
    assert not wrong, "\n".join(wrong)
