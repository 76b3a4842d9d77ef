"""The project's tests that are marked `gpu`."""

import importlib.util
import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.gpu.part import Emit, Setting
from tests.gpu.report import Column, Figures, Row
from tests.support import ROOT

WORKERS = 8
"""Processes that share the GPU, where pytest-xdist is installed; each holds a CUDA context of its own."""


def files() -> list[Path]:
    """The modules whose tests are marked gpu; tests/gpu/test_parts.py holds that no other module has any."""
    return sorted((ROOT / "tests").rglob("test_gpu.py"))


@dataclass(frozen=True, slots=True)
class _Counts:
    """Of one test function, over its parameters."""

    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("passed", "failed", "skipped"), 0))
    failures: list[str] = field(default_factory=list[str])
    seconds: list[float] = field(default_factory=list[float])

    def row(self) -> Row:
        figures: Figures = {**self.outcomes, "seconds": sum(self.seconds)}
        return Row(figures=figures, problem="; ".join(self.failures))


class _Watch:
    """A pytest plugin that emits a row whenever a test has ended, in this process or in a worker's."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._counts: dict[str, _Counts] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = _function(report.nodeid)
        counts = self._counts.setdefault(name, _Counts())
        counts.seconds.append(report.duration)
        if report.when == "call" or report.outcome != "passed":  # a skip is told at the set-up
            counts.outcomes[report.outcome] += 1
            if report.outcome == "failed":
                last = str(report.longreprtext).strip().splitlines() or ["no message"]
                counts.failures.append(f"{report.nodeid.partition('::')[2]} ({report.when}): {_error(last)}")
            self._emit(name, counts.row())


def _error(lines: list[str]) -> str:
    """The line of a failure that says most: the first of pytest's own error lines."""
    return next((line[1:].strip() for line in lines if line.startswith("E ")), lines[-1])


def _function(nodeid: str) -> str:
    """`tests/a/test_gpu.py::test_b[c]` as `a test_b`."""
    path, _, name = nodeid.partition("::")
    return f"{Path(path).parent.name} {name.partition('[')[0]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkedTests:
    """A part whose cases are test functions."""

    files: Callable[[], Sequence[Path]]
    """The modules that hold them."""
    title: str = "the tests marked gpu"
    columns: tuple[Column, ...] = (
        Column(key="passed", title="passed"),
        Column(key="failed", title="failed"),
        Column(key="skipped", title="skipped"),
        Column(key="seconds", title="seconds, summed", form=".1f"),
    )

    def plan(self, setting: Setting) -> list[str]:
        del setting
        return [
            f"{file.parent.name} {name}"
            for file in self.files()
            for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
        ]

    def run(self, setting: Setting, done: Collection[str], emit: Emit) -> None:
        """Run them all, on several processes where pytest-xdist is installed; a test that failed is a problem of its function."""
        del done  # a test is cheap, and one that passed alone may fail beside others
        # Of pytest's plugins only those that the project uses: the others of a machine may warn, and warnings are errors.
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        arguments = [*map(str, self.files()), "-m", "gpu", "-p", "no:cacheprovider", "-p", "pytest_timeout"]
        arguments.append(f"--basetemp={setting.work / 'pytest'}")
        workers = min(WORKERS, os.cpu_count() or 1)
        if workers > 1 and importlib.util.find_spec("xdist") is not None:
            arguments += ["-p", "xdist.plugin", "-n", str(workers)]
        code = pytest.main(arguments, plugins=[_Watch(emit)])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            raise RuntimeError(f"pytest ended with {code!r}")


PART = MarkedTests(files=files)
