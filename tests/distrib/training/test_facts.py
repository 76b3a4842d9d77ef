"""Tests what is kept of a run's starts, and what may stand where they are kept."""

from pathlib import Path

import pytest

from distrib.training import facts


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"starts": 3}', "\0"])
def test_a_damaged_file_of_starts_is_kept_beside_the_new_one(tmp_path: Path, text: str) -> None:
    path, said = tmp_path / "facts.json", list[str]()
    assert facts.earlier_starts(path, said.append) == []
    assert said == []
    path.write_text(text)
    assert facts.earlier_starts(path, said.append) == []
    assert "it is kept as facts.json.damaged" in said[0]
    assert (tmp_path / "facts.json.damaged").read_text() == text
    assert not path.exists()


def test_the_last_step_is_that_of_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert facts.last_step(path) is None
    path.write_text('{"step": 7}\n' * 20_000 + '{"step": 8}\n{"step": ')
    assert facts.last_step(path) == 8
    path.write_text("nothing of the kind\n")
    assert facts.last_step(path) is None
