"""Tests a rehearsal of the measurement of starts."""

import re

import pytest

from tests.bench import start


@pytest.mark.matrix
def test_a_start_is_timed_to_its_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    start.main(["--rounds", "1"])
    (row,) = capsys.readouterr().out.splitlines()[2:]
    seconds = re.fullmatch(r"\| its own images \| ([\d.]+) \[[\d.]+, [\d.]+\] \|", row)
    assert seconds is not None
    assert 1 < float(seconds[1]) < 300
