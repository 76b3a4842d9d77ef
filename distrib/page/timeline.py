"""Tells what happened to a run between its steps: starts, stops, resumes and faults."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from distrib.page.run_files import Ended, RunFiles

Kind = Literal["start", "resume", "stop", "fault", "done"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened after a step."""

    kind: Kind
    step: int | None  # None where it is not known
    text: str
    time: str = ""

    @property
    def marked(self) -> bool:
        """Whether charts draw a line for it: not for the first start and the end of a whole run."""
        return self.kind in ("resume", "stop", "fault") and self.step is not None


def events(run: RunFiles) -> Iterator[Event]:
    """Yield what happened, in order of time."""
    for start in run.facts.starts:
        if start.before is not None:
            yield _end(start.before)
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(start.time))
        on = f"with {start.world_size} process{'es' if start.world_size > 1 else ''}"
        if start.step:
            yield Event("resume", start.step, f"resumed after step {start.step:,} {on}", when)
        else:
            yield Event("start", 0, f"started {on}", when)
    status = run.status
    if status.state in ("done", "stopped", "failed"):
        reached = int(run.steps.steps[-1]) if len(run.steps) else status.step
        yield _end(Ended(state=status.state, exit_code=status.exit_code, reason=status.reason, reached=reached))


def _end(ended: Ended) -> Event:
    reason = f": {ended.reason}" if ended.reason else ""
    match ended.state:
        case "done":
            return Event("done", ended.reached, "done")
        case "stopped":
            return Event("stop", ended.reached, f"stopped on request{reason}")
        case "running":
            return Event("fault", ended.reached, "ended without a word: it was killed, or its machine was lost")
        case _:
            return Event("fault", ended.reached, f"failed with exit code {ended.exit_code}{reason}")
