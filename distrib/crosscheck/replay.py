"""The replay of a run's trace when training is over, and what its summary says of it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from distrib.display import Display
from distrib.files import read_json
from distrib.job.stop import Stopped, StopRequest
from distrib.system import kill_with_parent
from distrib.training import summary

_MATCH, _MISMATCH, _VACUOUS = 0, 1, 3
"""The replay's exit codes that are verdicts."""


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
            summary.steps(folder),
        )
    if not replayed:
        return f"the cross-check could not be replayed: {err.strip() or f'exit code {replayer.returncode}'}"
    summed_up, *rest = out.rstrip().splitlines()
    of_interest = rest if replayer.returncode != _MATCH else [line for line in rest if line.startswith("warning: ")]
    display.say("\n".join([f"cross-check: {summed_up}", *of_interest]))
    summary.add_verdict(folder, read_json(to))
    if replayer.returncode == _MISMATCH:
        return f"the cross-check found a mismatch: {summed_up} (all of it: {to})"
    return None


def _until_asked(process: "subprocess.Popen[str]", request: StopRequest) -> tuple[str, str]:
    """What it printed; it is ended when somebody asks this process to stop."""
    while True:
        try:
            return process.communicate(timeout=0.2)
        except subprocess.TimeoutExpired:
            if request.asked():
                process.kill()
