"""What is kept of a run's starts, and what may stand where they are kept."""

from pathlib import Path

import pytest

from distrib.training import facts


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"starts": 3}', "\0"])
def test_earlier_starts_that_cannot_be_read_are_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "facts.json"
    assert facts.earlier_starts(path) == []
    path.write_text(text)
    assert facts.earlier_starts(path) == []


def test_the_last_step_is_that_of_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert facts.last_step(path) is None
    path.write_text('{"step": 7}\n' * 20_000 + '{"step": 8}\n{"step": ')
    assert facts.last_step(path) == 8
    path.write_text("nothing of the kind\n")
    assert facts.last_step(path) is None
