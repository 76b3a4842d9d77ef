"""What one rank finds becomes everybody's, also where there is only one."""

from collections.abc import Callable

import pytest
from accelerate import Accelerator

from distrib.errors import BadInput
from distrib.ranks import collectives


@pytest.fixture(scope="module")
def alone() -> Accelerator:
    return Accelerator(cpu=True, mixed_precision="no")


def _fail() -> None:
    raise BadInput("this disk is full")


@pytest.mark.parametrize("turn", [collectives.on_main, collectives.main_first])
def test_single_process_does_the_work_once(turn: Callable[..., object], alone: Accelerator) -> None:
    calls: list[int] = []

    def work() -> int:
        calls.append(1)
        return 42

    assert turn(alone, work) == 42
    assert len(calls) == 1


@pytest.mark.parametrize("turn", [collectives.on_main, collectives.main_first])
def test_bad_input_keeps_its_words(turn: Callable[..., object], alone: Accelerator) -> None:
    with pytest.raises(BadInput, match=r"^this disk is full$"):
        turn(alone, _fail)


def test_no_problem_no_error(alone: Accelerator) -> None:
    collectives.agree_on_error(alone, None)
    with pytest.raises(BadInput, match=r"^no room$"):
        collectives.agree_on_error(alone, "no room")
