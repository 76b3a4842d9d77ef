"""Profiles a few steps by torch.profiler, into profile.json, which viewers of Chrome traces show, and a table, profile.txt."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from distrib.data.batches.plan import Plan
from distrib.display import Display
from distrib.errors import BadInput
from distrib.files import replacing, write_atomically
from distrib.layout import PROFILE_TABLE, PROFILE_TRACE
from distrib.ranks.world import device_name
from distrib.text import count

WARM_UP = 3
"""Steps of a start before the first one that is profiled: they allocate memory and choose kernels."""
_ROWS = 30  # of the table


def expect_room(steps: int | None, plan: Plan) -> None:
    """Raise BadInput if an epoch is too short for `steps`, which is `output.profile_steps`: an evaluation is no step."""
    most = plan.steps_per_epoch - WARM_UP
    if steps is None or steps <= most:
        return
    remedy = f"take {most} at most" if most > 0 else "leave it out, or choose a smaller training.batch_size"
    raise BadInput(
        f"output.profile_steps = {steps}: the steps lie within one epoch, behind {WARM_UP} that warm up, and an epoch of this "
        f"run has {count(plan.steps_per_epoch, 'step')}: {remedy}"
    )


def steps_to_profile(steps: int, plan: Plan, resumed_step: int) -> range:
    """Return so many steps: of this epoch if what is left of it has room for them, or else of the next one."""
    done = resumed_step % plan.steps_per_epoch
    fits = done + WARM_UP + steps <= plan.steps_per_epoch
    first = WARM_UP + 1 + (resumed_step if fits else resumed_step - done + plan.steps_per_epoch)
    return range(first, first + steps)


class StepProfiler:
    """Profiles steps of this rank. What fails costs a note, and the run goes on."""

    def __init__(self, steps: range, folder: Path, device: torch.device, display: Display) -> None:
        """The files are written into `folder`."""
        self._steps, self._folder, self._device, self._display = steps, folder, device, display
        self._profile: profile | None = None

    def after_step(self, step: int) -> bool:
        """Start behind the step before the first one, and write behind the last one. Return whether that took time."""
        if step + 1 == self._steps[0]:
            self._attempt(self._start)
        elif step == self._steps[-1] and self._profile is not None:
            self._attempt(self._finish)
        else:
            return False
        return True

    def close(self) -> None:
        """Drop what is not whole, because this start ends here."""
        if self._profile is not None:
            self._attempt(self._profile.stop)
            self._profile = None

    def _start(self) -> None:
        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        else:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or torch's profiler tells that there is no GPU
        # There is one cycle, so nothing accumulates; torch 2.11 warns of every profile that does not ask for it.
        self._profile = profile(activities=activities, acc_events=True)
        self._profile.start()

    def _finish(self) -> None:
        profile, self._profile = self._profile, None
        assert profile is not None
        profile.stop()
        steps = f"steps {self._steps[0]} to {self._steps[-1]}"
        averages: Any = profile.key_averages()  # typed in part
        table = averages.table(sort_by=f"self_{self._device.type}_time_total", row_limit=_ROWS)
        head = f"Profile of {steps} on rank 0, {device_name(self._device)}, torch {torch.__version__}"
        write_atomically(self._folder / PROFILE_TABLE, f"{head}\n\n{table}")
        with replacing(self._folder / PROFILE_TRACE) as new:
            profile.export_chrome_trace(str(new))
            _expect_whole(new)
            new.chmod(0o644)
        self._display.line(f"profile of {steps}: {self._folder / PROFILE_TABLE} and {PROFILE_TRACE}")

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # a full disk, or a GPU whose counters this user may not read: the run is worth more
            self._profile = None
            self._display.say(f"note: no profile ({type(error).__name__}: {error}); the run goes on without it")


def _expect_whole(trace: Path) -> None:
    """Raise OSError for a trace that is cut short: torch writes it without telling of a full disk."""
    with trace.open("rb") as file:
        file.seek(max(0, trace.stat().st_size - 16))
        if not file.read().rstrip().endswith(b"}"):
            raise OSError(errno.ENOSPC, "it could not be written whole", str(trace))
