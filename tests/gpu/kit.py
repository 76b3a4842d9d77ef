"""Runs the parts one after the other, each in a process of its own, and keeps the report complete at every moment."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from distrib.system import kill_with_parent
from tests.gpu import report as reports
from tests.gpu.part import Request, Setting
from tests.gpu.report import Column, Part, Report, Row
from tests.processes import MARK, kill_marked
from tests.support import ROOT

_LOOK_EVERY = 0.2  # seconds between two looks at what a part has measured
_TO_END = 2.0  # seconds that are kept for ending the last part and writing the report


@dataclass(frozen=True, slots=True)
class Slot:
    """A part's place in the plan."""

    module: str
    seconds: float
    """What it may take on a GPU, the start of its process included."""


PARTS: dict[str, Slot] = {
    "facts": Slot("tests.gpu.parts.facts", 25),
    "cross-check": Slot("tests.gpu.parts.crosscheck", 100),
    "tests": Slot("tests.gpu.parts.marked_tests", 120),
    "trainer": Slot("tests.gpu.parts.trainer", 120),
    "loop": Slot("tests.gpu.parts.loop", 40),
    "optimizer": Slot("tests.gpu.parts.optimizer", 45),
    "recorder": Slot("tests.gpu.parts.recorder", 45),
    "exactness": Slot("tests.gpu.parts.exactness", 45),
}
"""In the order of their worth; nine minutes in all."""


def end_times(slots: Mapping[str, Slot], total: float) -> dict[str, float]:
    """When each part must have ended, in seconds after the start.

    A part that ends early leaves its time to those behind it. Where there is more time than the parts need, each gets
    more in proportion; where there is less, the last ones go without.
    """
    available = total - _TO_END
    stretch = max(1.0, available / sum(slot.seconds for slot in slots.values()))
    ends = itertools.accumulate(slot.seconds * stretch for slot in slots.values())
    return {name: min(end, available) for name, end in zip(slots, ends, strict=True)}


def run(
    report: Report, slots: Mapping[str, Slot], folder: Path, *, setting: Setting, start: float, total: float
) -> None:
    """Run the parts of `slots` that the report does not hold complete; `start` is in the time of time.monotonic()."""
    for name in slots:
        report.parts.setdefault(name, Part())
    to_do = {name: slot for name, slot in slots.items() if report.parts[name].state != "done"}
    reports.write(report, folder)
    for name, end in end_times(to_do, total).items() if to_do else ():
        left = start + end - time.monotonic()
        if left <= 0:
            report.parts[name].why = "no time was left"
            continue
        print(f"{name} (at most {left:.0f} s)", flush=True)
        _run_part(report, name, to_do[name].module, folder, setting, deadline=start + end)
        reports.write(report, folder)
        part = report.parts[name]
        print(f"  {part.state}, {part.seconds:.0f} s{': ' if part.why else ''}{part.why}", flush=True)
    reports.write(report, folder)


def _run_part(report: Report, name: str, module: str, folder: Path, setting: Setting, *, deadline: float) -> None:
    """Run one part until its end or its deadline; the report follows each of its rows."""
    part = report.parts[name]
    part.state, part.why, began = "running", "", time.monotonic()
    part.day = datetime.now(UTC).date().isoformat()
    done = tuple(case for case, row in part.rows.items() if not row.problem)
    request = Request(module=module, setting=setting, done=done, rows=setting.work / f"{name}.jsonl")
    request_file = setting.work / f"{name}.json"
    request_file.write_bytes(TypeAdapter(Request).dump_json(request))
    lines = _Lines(request.rows)
    with (folder / "log.txt").open("ab") as log, _process(request_file, log.fileno(), setting) as process:
        try:
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(_LOOK_EVERY)
                if lines.take_in(part):
                    part.seconds = time.monotonic() - began
                    reports.write(report, folder)
        except BaseException:  # somebody asked the kit to stop
            part.state, part.why = "cut off", "the kit was stopped"
            reports.write(report, folder)
            raise
        code = process.poll()
    lines.take_in(part)
    part.seconds = time.monotonic() - began
    if code is None:
        part.state, part.why = "cut off", f"its time was over after {part.seconds:.0f} s"
    elif code == 0:
        part.state = "done"
    else:
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        part.state, part.why = "crashed", f"{how}; log.txt ends with: {_last_line(folder / 'log.txt')}"


@contextmanager
def _process(request_file: Path, log: int, setting: Setting) -> "Generator[subprocess.Popen[bytes]]":
    """The part's process; on leaving, it and all that it has started are gone."""
    mark = f"gpu-kit-{os.getpid()}"
    caches = {
        "CUDA_CACHE_PATH": "cuda",
        "MPLCONFIGDIR": "matplotlib",
        "TORCHINDUCTOR_CACHE_DIR": "inductor",
        "TRITON_CACHE_DIR": "triton",
        "XDG_CACHE_HOME": "cache",
    }
    environment = {
        **os.environ,
        **{variable: str(setting.work / name) for variable, name in caches.items()},
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_PLATFORMS": "cpu",  # a JAX with CUDA would take most of the GPU's memory at its start
        "TMPDIR": str(setting.work),
        MARK: mark,
        **({"CUDA_VISIBLE_DEVICES": ""} if setting.device == "cpu" else {}),
    }
    command = [*kill_with_parent(), sys.executable, "-m", "tests.gpu.part", str(request_file)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    try:
        yield process
    finally:
        while kill_marked(mark):
            time.sleep(0.01)
        process.wait()


class _Lines:
    """The lines that a part's process has written since the last look."""

    def __init__(self, path: Path) -> None:
        self._path, self._position = path, path.stat().st_size if path.exists() else 0

    def take_in(self, part: Part) -> bool:
        """Put what is new into the part; whether there was anything."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                new = file.read()
        except FileNotFoundError:
            return False
        complete = new[: new.rfind(b"\n") + 1]
        self._position += len(complete)
        for line in complete.splitlines():
            told = json.loads(line)
            if "case" in told:
                part.rows[told["case"]] = Row.model_validate(told["row"])
            else:
                part.title, part.planned = told["title"], told["planned"]
                part.columns = TypeAdapter(list[Column]).validate_python(told["columns"])
        return bool(complete)


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")


@contextmanager
def work_folder() -> Generator[Path]:
    """A folder for all that is not the report."""
    folder = Path(tempfile.mkdtemp(prefix="gpu-kit-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def choose(names: Sequence[str] | None) -> dict[str, Slot]:
    """The parts of these names, in their own order; all of them for None. Raises KeyError with a name that no part has."""
    for name in names or ():
        _ = PARTS[name]
    return {name: slot for name, slot in PARTS.items() if names is None or name in names}
