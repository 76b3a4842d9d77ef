"""metrics.jsonl has each step once, also after kills and resumes."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrib.errors import BadInput
from distrib.training.metrics.metrics import Metrics
from tests.support import largest_file


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def steps(path: Path) -> list[int]:
    return [line["step"] for line in lines(path)]


def run(path: Path, first: int, last: int) -> None:
    """Steps first..last, as a run that resumed behind step first - 1 writes them; every third ends an epoch."""
    metrics = Metrics(path, first - 1)
    for step in range(first, last + 1):
        metrics.write(kind="step", step=step, loss=0.5)
        if step % 3 == 0:
            metrics.write(kind="epoch", step=step, test_accuracy=0.1)
    metrics.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_one_object_a_line(path: Path) -> None:
    metrics = Metrics(path, 0)
    metrics.write(kind="step", step=1, loss=0.25, name="é\n")
    metrics.close()
    assert lines(path) == [{"kind": "step", "step": 1, "loss": 0.25, "name": "é\n"}]


def test_line_is_on_disk_at_once(path: Path) -> None:
    metrics = Metrics(path, 0)
    metrics.write(step=1)
    found = steps(path)
    metrics.close()
    assert found == [1]


def test_fresh_run_starts_an_empty_file(path: Path) -> None:
    run(path, 1, 5)
    Metrics(path, 0).close()
    assert path.read_text() == ""


@pytest.mark.parametrize("resumed", range(8))
def test_steps_taken_again_are_there_once(path: Path, resumed: int) -> None:
    run(path, 1, 7)
    run(path, resumed + 1, 9)
    undisturbed = path.with_name("undisturbed.jsonl")
    run(undisturbed, 1, 9)
    assert path.read_text() == undisturbed.read_text()


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_file_cut_behind_the_checkpoint_is_repaired(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A kill may end the last line anywhere; the lines up to the checkpoint were written before it."""
    folder = tmp_path_factory.mktemp("cut")
    path, undisturbed = folder / "metrics.jsonl", folder / "undisturbed.jsonl"
    run(path, 1, 7)
    run(undisturbed, 1, 9)
    content = path.read_bytes()
    resumed = data.draw(st.integers(0, 6))
    written = sum(len(line) + 1 for line in content.splitlines() if json.loads(line)["step"] <= resumed)
    path.write_bytes(content[: data.draw(st.integers(written, len(content)))])
    run(path, resumed + 1, 9)
    assert path.read_text() == undisturbed.read_text()


@pytest.mark.parametrize("rubbish", ["{", '{"kind": "step"}', "[1]", "null", "12", '{"step": null}', "\0\0\0", ""])
def test_lines_that_are_no_step_are_dropped(path: Path, rubbish: str) -> None:
    run(path, 1, 2)
    with path.open("a") as file:
        file.write(rubbish + "\n")
    run(path, 3, 4)
    assert steps(path) == [1, 2, 3, 3, 4]


def test_last_line_without_its_newline_is_not_written_on(path: Path) -> None:
    """A power cut may lose what was written but never synced, and the checkpoint was synced."""
    run(path, 1, 2)
    path.write_text(path.read_text().removesuffix("\n"))
    run(path, 3, 4)
    assert steps(path) == [1, 2, 3, 3, 4]


def test_an_evaluation_made_again_is_there_once(path: Path) -> None:
    """The start that made it first was killed before it saved anything later."""
    run(path, 1, 3)
    metrics = Metrics(path, 3, evaluation_pending=True)
    metrics.write(kind="epoch", step=3, test_accuracy=0.2)
    metrics.close()
    assert [(line["kind"], line["step"]) for line in lines(path)] == [
        ("step", 1),
        ("step", 2),
        ("step", 3),
        ("epoch", 3),
    ]


def test_a_byte_that_is_no_text_costs_its_line_only(path: Path) -> None:
    run(path, 1, 2)
    path.write_bytes(path.read_bytes().replace(b'"step": 2', b'"step": \xff'))
    run(path, 3, 4)
    assert steps(path) == [1, 3, 3, 4]


def test_a_start_that_could_not_read_the_checkpoints_costs_no_line(path: Path) -> None:
    """It began anew and was killed; the next one reads them again, and continues behind step 7."""
    run(path, 1, 7)
    run(path, 1, 3)
    assert steps(path) == [1, 2, 3, 3]
    run(path, 8, 9)
    undisturbed = path.with_name("undisturbed.jsonl")
    run(undisturbed, 1, 9)
    assert path.read_text() == undisturbed.read_text()
    assert not path.with_name("metrics.jsonl.old").exists()


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_each_step_is_there_once_whatever_each_start_could_read(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each start continues from any of the checkpoints that there are, takes some steps and saves some of them."""
    path, saved = tmp_path_factory.mktemp("starts") / "metrics.jsonl", {0}
    for _ in range(data.draw(st.integers(1, 5))):
        resumed = data.draw(st.sampled_from(sorted(saved)))
        last = resumed + data.draw(st.integers(0, 6))
        saves = data.draw(st.sets(st.integers(resumed + 1, last))) if last > resumed else set[int]()
        metrics = Metrics(path, resumed)
        for step in range(resumed + 1, last + 1):
            metrics.write(kind="step", step=step)
            if step in saves:
                metrics.after_checkpoint(step)
        metrics.close()
        saved |= saves
        assert steps(path) == list(range(1, last + 1))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_refused(path: Path, make: Callable[[Path], None]) -> None:
    make(path)
    with pytest.raises(BadInput, match="is not the metrics of a run"):
        Metrics(path, 0)


def test_a_line_without_end_is_none(path: Path) -> None:
    run(path, 1, 2)
    with path.open("ab") as file:
        file.truncate(2**24)
    run(path, 3, 4)
    assert steps(path) == [1, 2, 3, 3, 4]


def test_a_line_that_the_disk_refused_is_written_with_the_next(path: Path) -> None:
    metrics = Metrics(path, 0)
    with largest_file(10), pytest.raises(OSError, match=r"File too large: '.*metrics\.jsonl'$"):
        metrics.write(step=1, text="x" * 100)
    metrics.write(step=2)
    metrics.close()
    assert steps(path) == [1, 2]
