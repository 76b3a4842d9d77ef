"""The cross-check of a run: recorded by rank 0 while it trains, replayed by another process when it is over."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from crosscheck.recorder import Claims, Recorder, TraceError
from distrib import optim, schedule
from distrib.config.section import Section
from distrib.display import Display
from distrib.errors import BadInput
from distrib.files import read_json, write_json
from distrib.stop import Stopped, StopRequest
from distrib.training import Positive

if TYPE_CHECKING:
    from distrib.run import Run

NOT_RECORDED, NOT_REPLAYED = "not recorded", "not replayed"
"""The verdicts of summary.json that are not a replay's."""


class CrosscheckConfig(Section):
    """Whether every optimizer step is recorded and then taken again by Optax."""

    record: bool = False
    """Record the optimizer's steps in the run's folder, under trace/."""
    steps: Literal["sampled", "all"] | Annotated[tuple[Positive, ...], Field(strict=False)] = "sampled"
    """Steps recorded with every element: sampled (the first three, every hundredth, the one after a skip), all, or step numbers."""
    coordinates: Positive = 256
    """Elements of each tensor recorded at every step."""
    gradient_steps: Annotated[tuple[Positive, ...], Field(strict=False)] = ()
    """Steps recorded with their batch, to recompute the gradient itself: 3 MB and a second or two of replay each."""
    replay: bool = True
    """Replay the record when training is over, if JAX and Optax are installed; a mismatch ends the run with 1."""


def start_recorder(run: "Run", *, first_step: int) -> Recorder:
    """A recorder of the run's optimizer that continues the folder's trace, if it has one. Raises BadInput."""
    config, average = run.config.crosscheck, run.update.average
    try:
        return Recorder(
            run.optimizer,
            run.folder / "trace",
            steps=config.steps,
            coordinates=config.coordinates,
            scaler=run.precision.scaler,
            average=() if average is None else zip(run.module.parameters(), average.module.parameters(), strict=True),
            claims=_claims(run),
            append=True,
            first_step=first_step,
            world_size=run.plan.world_size,
            seed=run.plan.seed,
        )
    except TraceError as error:
        raise BadInput(f"crosscheck.record = true: {error}") from None


def _claims(run: "Run") -> Claims:
    """What the recipe says of all that stands around the optimizer."""
    training, average = run.config.training, run.update.average
    return Claims(
        clip_norm=training.clip_norm,
        clip_value=training.clip_value,
        average=training.ema,
        averaged=0 if average is None else int(average.n_averaged),
        applied=run.update.applied,
        schedule=schedule.claim(
            run.config.schedule, total_updates=run.total_steps, updates_per_epoch=run.plan.steps_per_epoch
        ),
        options=optim.options_by_name(run.config.optimizer, [name for name, _ in run.module.named_parameters()]),
    )


def replay(folder: Path, display: Display, request: StopRequest) -> str | None:
    """Replay the folder's trace and put the verdict into summary.json; the problem, if there is one. Raises Stopped.

    In a process of its own: the trainer never imports JAX, and a GPU belongs to torch.
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
        [*_dies_with_us(), sys.executable, "-m", "crosscheck", "replay", folder / "trace", "--json", to],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    out, err = _until_asked(replayer, request)
    if request.reason is not None and (replayer.returncode not in (0, 1, 3) or not out):
        raise Stopped(
            request.reason,
            "when training was complete and its trace not replayed yet; the same command replays it",
            read_json(folder / "summary.json")["steps"],
        )
    if replayer.returncode not in (0, 1, 3) or not out:
        return f"the cross-check could not be replayed: {err.strip() or f'exit code {replayer.returncode}'}"
    summed_up, *rest = out.rstrip().splitlines()
    of_interest = rest if replayer.returncode else [line for line in rest if line.startswith("warning: ")]
    display.say("\n".join([f"cross-check: {summed_up}", *of_interest]))
    _into_summary(folder / "summary.json", read_json(to))
    if replayer.returncode == 1:
        return f"the cross-check found a mismatch: {summed_up} (all of it: {to})"
    return None


def _dies_with_us() -> list[str]:
    """A command prefix, so that a replay does not outlive a trainer that is killed (Linux)."""
    setpriv = shutil.which("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", "KILL"]


def _until_asked(process: "subprocess.Popen[str]", request: StopRequest) -> tuple[str, str]:
    """What it printed; it is ended when somebody asks this process to stop."""
    while True:
        try:
            return process.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            if request.reason is not None:
                process.kill()


def verdict(folder: Path) -> str:
    """What summary.json says of the cross-check."""
    return str(read_json(folder / "summary.json")["crosscheck"]["verdict"])


def _into_summary(path: Path, report: dict[str, Any]) -> None:
    summary = read_json(path)
    summary["crosscheck"] |= {
        "verdict": report["verdict"],
        "max_eta": report["max_eta"],
        "steps_checked": report["steps"] - report["skipped"],
    }
    write_json(path, summary)
