"""The fuzzer sees what it is there for, and every reader meets a few hundred damaged files."""

import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distrib.errors import BadInput
from tests.fuzz.__main__ import attack
from tests.fuzz.format import Format
from tests.fuzz.formats import FORMATS
from tests.fuzz.mutations import mutated
from tests.fuzz.traces import TRACES


def refuse() -> None:
    raise BadInput("no such key")


def refuse_in_two_lines() -> None:
    raise BadInput("no\nsuch key")


@pytest.mark.parametrize(
    ("read", "problem", "outcome"),
    [
        (lambda: None, "", "taken"),
        (refuse, "", "refused"),
        (refuse_in_two_lines, "the message has several lines", "refused"),
        (lambda: 1 // 0, "ZeroDivisionError", "finding"),
        (lambda: time.sleep(60), "it took too long", "finding"),
    ],
)
def test_a_finding_is_one(tmp_path: Path, read: Callable[[], object], problem: str, outcome: str) -> None:
    file = tmp_path / "a"
    found = attack(Format("a", file, read, file.write_bytes), b"x", seconds=0.2)
    assert (problem in found[0], found[1]) == (True, outcome)
    assert bool(found[0]) == bool(problem)


def test_damaged_files_are_taken_or_refused(tmp_path: Path) -> None:
    rng = random.Random(20)  # noqa: S311
    for make in (*FORMATS, *TRACES):
        fmt = make(tmp_path)
        right = fmt.file.read_bytes()
        for _ in range(10 if make in FORMATS else 4):
            problem, _ = attack(fmt, mutated(right, rng))
            assert problem == "", fmt.name
