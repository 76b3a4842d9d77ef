"""One part of the kit, and the process that runs it: `python -m tests.gpu.part REQUEST.json`.

The process appends a line of JSON to the request's file for each case that it has measured, so that whoever ends it,
at whatever moment, loses one case at most. This module imports neither torch nor JAX.
"""

import importlib
import json
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import TypeAdapter

from tests.gpu.report import Column, Figures, Row

Device = Literal["cuda", "cpu"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """Where a part runs."""

    device: Device
    work: Path
    """A folder for what the part writes; it goes when the kit ends."""
    images: Path | None = None
    """A folder of real images, `train/<class>/` and `test/<class>/`."""

    @property
    def small(self) -> bool:
        """Whether this is a rehearsal, in which a case is tried but measures nothing worth keeping."""
        return self.device == "cpu"

    def folder(self, case: str) -> Path:
        """A folder of `work` for what this case writes."""
        return self.work / "".join(letter if letter.isalnum() else "-" for letter in case)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What the kit asks of the process that runs a part."""

    module: str
    setting: Setting
    done: tuple[str, ...]
    """Cases that an earlier start has measured."""
    rows: Path
    """The file that the process appends to."""


class Skipped(Exception):
    """A case that cannot be measured on this device; the message says why."""


class Problem(Exception):
    """A case that was measured and is wrong; the message says how, `figures` are those there are."""

    def __init__(self, message: str, figures: Figures | None = None) -> None:
        super().__init__(message)
        self.figures: Figures = figures or {}


Emit = Callable[[str, Row], None]


class Part(Protocol):
    """What the modules of tests/gpu/parts hold as `PART`."""

    @property
    def title(self) -> str:
        """What the part tells, in one sentence."""
        ...

    @property
    def columns(self) -> tuple[Column, ...]:
        """The figures of its cases."""
        ...

    def plan(self, setting: Setting) -> Sequence[str]:
        """The names of all its cases, in the order of their worth."""
        ...

    def run(self, setting: Setting, done: Collection[str], emit: Emit) -> None:
        """Measure the cases that are not done, and emit a row for each."""
        ...


@dataclass(frozen=True, slots=True)
class Case:
    """One row of a part."""

    name: str
    measure: Callable[[], "Figures | Future[Figures]"]
    """Returns the figures, or what will give them while the next case runs. May raise Skipped or Problem."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cases:
    """A part whose cases are measured one after the other."""

    title: str
    columns: tuple[Column, ...]
    cases: Callable[[Setting], Sequence[Case]]

    def plan(self, setting: Setting) -> Sequence[str]:
        return [case.name for case in self.cases(setting)]

    def run(self, setting: Setting, done: Collection[str], emit: Emit) -> None:
        waiting: list[tuple[str, Future[Figures]]] = []
        for case in self.cases(setting):
            if case.name in done:
                continue
            measured = _outcome(case.measure)
            if isinstance(measured, Row):
                emit(case.name, measured)
            else:
                waiting.append((case.name, measured))
            for name, future in [pair for pair in waiting if pair[1].done()]:
                emit(name, _row_of(future))
                waiting.remove((name, future))
        for name, future in waiting:
            emit(name, _row_of(future))


def _outcome(measure: Callable[[], "Figures | Future[Figures]"]) -> "Row | Future[Figures]":
    """The row of a case that is over, whatever it raised; what to wait for, of one that is not."""
    try:
        measured = measure()
    except Skipped as reason:
        return Row(skipped=str(reason))
    except Problem as problem:
        return Row(figures=problem.figures, problem=str(problem))
    except Exception as error:
        traceback.print_exc()
        return Row(problem=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
    return measured if isinstance(measured, Future) else Row(figures=measured)


def _row_of(future: "Future[Figures]") -> Row:
    row = _outcome(future.result)
    assert isinstance(row, Row)
    return row


def load(module: str) -> Part:
    """The part that a module holds."""
    part: Part = importlib.import_module(module).PART
    return part


def main(request_file: str) -> None:
    request = TypeAdapter(Request).validate_json(Path(request_file).read_bytes())
    part = load(request.module)
    with request.rows.open("a", encoding="utf-8", buffering=1) as rows:  # whole lines, at once

        def emit(case: str, row: Row) -> None:
            rows.write(json.dumps({"case": case, "row": row.model_dump()}) + "\n")

        columns = [column.model_dump() for column in part.columns]
        plan = {"title": part.title, "columns": columns, "planned": list(part.plan(request.setting))}
        rows.write(json.dumps(plan) + "\n")
        part.run(request.setting, request.done, emit)


if __name__ == "__main__":
    main(sys.argv[1])
