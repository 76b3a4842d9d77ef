"""A part whose cases end in every way a case can end."""

from concurrent.futures import Future

from tests.gpu.part import Case, Cases, Problem, Setting, Skipped
from tests.gpu.report import Column, Figures


def _cases(setting: Setting) -> list[Case]:
    del setting
    return [
        Case("late", _late),
        Case("good", lambda: {"x": 1.25}),
        Case("wrong", _wrong),
        Case("left out", _left_out),
        Case("broken", lambda: {"x": 1 / 0}),
        Case("good | too", lambda: {"x": float("inf")}),
    ]


def _late() -> Future[Figures]:
    future: Future[Figures] = Future()
    future.set_result({"x": 2.0})
    return future


def _wrong() -> Figures:
    raise Problem("it is twice what it should be", {"x": 3.0})


def _left_out() -> Figures:
    raise Skipped("there is no such device")


PART = Cases(title="every end", columns=(Column(key="x", title="x", form=".1f"),), cases=_cases)
