"""Configures the cross-check of a run, and replays its record, during training and when it is over."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from distrib.config.section import Positive, Section
from distrib.display import Display
from distrib.errors import BadInput, RunFault
from distrib.files import read_json
from distrib.job.stop import Stopped, StopRequest
from distrib.layout import CROSSCHECK, CROSSCHECK_PAGE, TRACE
from distrib.page.live import available
from distrib.system import kill_with_parent
from distrib.text import count

_MATCH, _MISMATCH, _VACUOUS = 0, 1, 3
"""The replay's exit codes that are verdicts."""


class CrosscheckConfig(Section):
    """Whether optimizer steps are recorded, how much of them, and when Optax computes them again."""

    record: bool = False
    """Record the optimizer's steps in the run's folder, under trace/."""
    steps: Literal["sampled", "all"] | Annotated[tuple[Positive, ...], Field(strict=False)] = "sampled"
    """Steps that are recorded with more elements: sampled takes the first three, every hundredth and the one after a skipped one,
    within the budget; all, or step numbers, record every element of these steps."""
    budget: Literal["light", "default", "full"] | Annotated[int, Field(ge=1024, le=2**40)] = "default"
    """How much of each step is recorded: light, default (about 100 KiB a step), full (every element of every step),
    or a number of bytes."""
    coordinates: Annotated[int, Field(ge=1, le=10**6)] | None = None
    """Elements of each tensor recorded at every step, instead of those that the budget spreads over all tensors."""
    gradient_steps: Annotated[tuple[Positive, ...], Field(strict=False)] = ()
    """Steps recorded with their batch, to recompute the gradient itself: 3 MB and a second or two of replay each."""
    replay: bool = True
    """Replay the record when training is over, if JAX and Optax are installed. At a mismatch the run ends with exit code 1."""
    live: Literal["off", "warn", "stop"] = "off"
    """Replay the record while training goes on as well, in a process of the lowest priority. At a mismatch warn says so once, and
    stop writes a checkpoint and ends the run with 1. Where training takes all cores of a CPU, this process waits for most of the
    run: training.threads can leave it one."""

    @model_validator(mode="after")
    def _live_needs_a_record(self) -> Self:
        if self.live != "off" and not self.record:
            raise ValueError(
                f"crosscheck.live = {self.live} has no record to replay: set crosscheck.record = true, or crosscheck.live = off"
            )
        return self

    def expect_steps(self, total_steps: int) -> None:
        """Raise BadInput if a step that is to be recorded lies behind the last one of the run."""
        for key, numbers in (("steps", self.steps), ("gradient_steps", self.gradient_steps)):
            beyond = [] if isinstance(numbers, str) else [number for number in numbers if number > total_steps]
            if self.record and beyond:
                raise BadInput(
                    f"crosscheck.{key} = {list(numbers)}: the run has {count(total_steps, 'step')}, and so no step "
                    f"{max(beyond)}; name steps from 1 to {total_steps}"
                )


def replay(
    folder: Path, display: Display, request: StopRequest, *, step: int | None
) -> tuple[dict[str, Any], str] | None:
    """Replay the trace in the run's folder and show what was found.

    Returns the verdict and what goes with it, as `read_report` does, and the mismatch in one line, which is empty for another
    verdict. Returns None where JAX or Optax is not installed.

    The replay is a process of its own: the trainer never imports JAX, and a GPU belongs to torch. `step` is the run's
    last. Raises RunFault if there is no verdict, and Stopped if somebody asked this process to stop before there was one.
    """
    missing = _missing()
    if missing:
        display.say(
            f"cross-check: recorded but not replayed, because {' and '.join(missing)} is not installed here; "
            f"where it is: python -m crosscheck replay {folder / TRACE}"
        )
        return None
    to = folder / CROSSCHECK
    code, out, err = _replay(folder, request, display)
    if code < 0:
        request.wait(1.0)  # a signal to all of the launcher's processes may have reached the replay first
    replayed = code in (_MATCH, _MISMATCH, _VACUOUS) and bool(out)
    if request.reason is not None and not replayed:
        raise Stopped(
            request.reason,
            "when training was complete and its trace not replayed yet; the same command replays it",
            step,
        )
    if not replayed:
        raise RunFault(f"the cross-check could not be replayed: {err.strip() or f'exit code {code}'}")
    summed_up, *rest = out.rstrip().splitlines()
    of_interest = rest if code != _MATCH else [line for line in rest if line.startswith("warning: ")]
    display.say("\n".join([f"cross-check: {summed_up}", *of_interest]))
    return read_report(to), _mismatch(summed_up, to) if code == _MISMATCH else ""


def _replay(folder: Path, request: StopRequest, display: Display) -> tuple[int, str, str]:
    """Replay the trace, and return the exit code and what the replay printed."""
    replayer = subprocess.Popen(
        [
            *kill_with_parent(),
            *(sys.executable, "-m", "crosscheck", "replay", folder / TRACE, "--json", folder / CROSSCHECK),
            *_page(folder, display),
        ],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = _until_asked(replayer, request)
    return replayer.returncode, out, err


def _page(folder: Path, display: Display) -> list[str | Path]:
    """Return the options of a replay that writes its page, if it can; remove an older page, which may say something else."""
    page = folder / CROSSCHECK_PAGE
    try:
        page.unlink(missing_ok=True)
    except OSError as error:  # the verdict is worth more than its page
        display.say(f"note: {page} cannot be written ({error.strerror}); the cross-check goes on without it")
        return []
    return ["--html", page] if available() else []


class _Report(BaseModel):
    """What is read of crosscheck.json."""

    verdict: str
    max_eta: float | Literal["inf", "nan"]
    steps: int
    skipped: int


def read_report(path: Path) -> dict[str, Any]:
    """Return what is read of crosscheck.json. Raises OSError, and RunFault if it is damaged."""
    try:
        return _Report.model_validate(read_json(path), strict=True).model_dump()
    except ValueError:  # pydantic's error is one
        raise RunFault(
            f"{path} is no report of a replay any more: somebody changed it just after it was written"
        ) from None


def _until_asked(process: "subprocess.Popen[str]", request: StopRequest) -> tuple[str, str]:
    """Return what the process printed; kill it when somebody asks this one to stop."""
    while True:
        try:
            return process.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            if request.asked():
                process.kill()


class LiveReplay:
    """The replay of a trace that this process is writing, by a process of the lowest priority and with one thread."""

    def __init__(self, mode: str, folder: Path, display: Display) -> None:
        """`mode`: what to do at a mismatch, warn or stop. Raises BadInput if JAX or Optax is not installed."""
        missing = _missing()
        if missing:
            raise BadInput(
                f"crosscheck.live = {mode} replays with {' and '.join(missing)}, not installed here: "
                "pip install '.[replay]' in a clone of Twinstep, or set crosscheck.live = off"
            )
        self._stops, self._display, self._to = mode == "stop", display, folder / CROSSCHECK
        self.mismatch: str | None = None
        """In one line what was found, if it is a reason to stop."""
        # A pipe that nobody empties would stop it. `close` closes the files.
        self._out, self._err = TemporaryFile("w+"), TemporaryFile("w+")  # noqa: SIM115
        nice = [] if shutil.which("nice") is None else ["nice", "-n", "19"]
        one_thread = {"NPROC": "1", "PJRT_NPROC": "1", "OMP_NUM_THREADS": "1"}  # XLA's and NumPy's
        self._process: subprocess.Popen[str] | None = subprocess.Popen(
            [
                *kill_with_parent(),
                *nice,
                *(sys.executable, "-m", "crosscheck", "watch", folder / TRACE, "--json", self._to),
                *_page(folder, display),
            ],
            env={**os.environ, "JAX_PLATFORMS": "cpu", **one_thread},
            stdout=self._out,
            stderr=self._err,
            text=True,
        )

    def asks_to_stop(self) -> bool:
        """Return whether there is a mismatch to stop for; say what there is to say when the replay has ended."""
        if self._process is not None and (code := self._process.poll()) is not None:
            self._process = None
            self._ended(code)
        return self.mismatch is not None

    def _ended(self, code: int) -> None:
        report, errors = _lines(self._out), _lines(self._err)
        if code != _MISMATCH or not report:
            why = errors[-1] if errors and code > 0 else f"exit code {code}"
            self._display.say(f"warning: the live replay has ended, and training goes on without it: {why}")
            return
        mismatch = _mismatch(report[0], self._to)
        self._display.say("\n".join([f"cross-check: {report[0]}", *report[1:]]))
        if self._stops:
            self.mismatch = mismatch
        else:
            self._display.say(f"warning: {mismatch}; training goes on, by crosscheck.live = warn")

    def close(self) -> None:
        """End the replay, which another one at the end of training makes superfluous."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._out.close()
        self._err.close()


def _missing() -> list[str]:
    """Return what is not installed of all that a replay needs."""
    return [name for name in ("jax", "optax") if importlib.util.find_spec(name) is None]


def _mismatch(summed_up: str, report: Path) -> str:
    return f"the cross-check found a mismatch: {summed_up} (all of it: {report})"


def _lines(file: IO[str]) -> list[str]:
    file.seek(0)
    return file.read().splitlines()
