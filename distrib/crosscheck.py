"""The cross-check of a run: what of it is recorded, and the replay of the record when training is over."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from distrib.config.section import Positive, Section
from distrib.display import Display
from distrib.errors import RunFault
from distrib.files import read_json
from distrib.job.stop import Stopped, StopRequest
from distrib.system import kill_with_parent

_MATCH, _MISMATCH, _VACUOUS = 0, 1, 3
"""The replay's exit codes that are verdicts."""


class CrosscheckConfig(Section):
    """Whether every optimizer step is recorded and then taken again by Optax."""

    record: bool = False
    """Record the optimizer's steps in the run's folder, under trace/."""
    steps: Literal["sampled", "all"] | Annotated[tuple[Positive, ...], Field(strict=False)] = "sampled"
    """Steps recorded with every element: sampled (the first three, every hundredth, the one after a skip), all, or step numbers."""
    coordinates: Annotated[int, Field(ge=1, le=10**6)] = 256
    """Elements of each tensor recorded at every step."""
    gradient_steps: Annotated[tuple[Positive, ...], Field(strict=False)] = ()
    """Steps recorded with their batch, to recompute the gradient itself: 3 MB and a second or two of replay each."""
    replay: bool = True
    """Replay the record when training is over, if JAX and Optax are installed; a mismatch ends the run with 1."""


def replay(
    folder: Path, display: Display, request: StopRequest, *, step: int | None
) -> tuple[dict[str, Any], str] | None:
    """Replay the trace in the run's folder and show what was found.

    Returns what crosscheck.json holds, and the mismatch in one line, which is empty for another verdict. Returns None where
    JAX or Optax is not installed.

    The replay is a process of its own: the trainer never imports JAX, and a GPU belongs to torch. `step` is the run's
    last. Raises RunFault if there is no verdict, and Stopped if somebody asked this process to stop before there was one.
    """
    missing = [name for name in ("jax", "optax") if importlib.util.find_spec(name) is None]
    if missing:
        display.say(
            f"cross-check: recorded but not replayed, because {' and '.join(missing)} is not installed here; "
            f"where it is: python -m crosscheck replay {folder / 'trace'}"
        )
        return None
    to = folder / "crosscheck.json"
    replayer = subprocess.Popen(
        [*kill_with_parent(), sys.executable, "-m", "crosscheck", "replay", folder / "trace", "--json", to],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = _until_asked(replayer, request)
    if replayer.returncode < 0:
        request.wait(1.0)  # a signal to all of the launcher's processes may have reached the replay first
    replayed = replayer.returncode in (_MATCH, _MISMATCH, _VACUOUS) and bool(out)
    if request.reason is not None and not replayed:
        raise Stopped(
            request.reason,
            "when training was complete and its trace not replayed yet; the same command replays it",
            step,
        )
    if not replayed:
        raise RunFault(f"the cross-check could not be replayed: {err.strip() or f'exit code {replayer.returncode}'}")
    summed_up, *rest = out.rstrip().splitlines()
    of_interest = rest if replayer.returncode != _MATCH else [line for line in rest if line.startswith("warning: ")]
    display.say("\n".join([f"cross-check: {summed_up}", *of_interest]))
    mismatch = f"the cross-check found a mismatch: {summed_up} (all of it: {to})"
    return read_json(to), mismatch if replayer.returncode == _MISMATCH else ""


def _until_asked(process: "subprocess.Popen[str]", request: StopRequest) -> tuple[str, str]:
    """Return what the process printed; kill it when somebody asks this one to stop."""
    while True:
        try:
            return process.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            if request.asked():
                process.kill()
