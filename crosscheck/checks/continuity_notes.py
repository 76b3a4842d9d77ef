"""What a report notes of resumed segments, loaded state and claimed changes between steps."""

import math
from collections.abc import Iterator

from crosscheck.report.coverage import runs, spans
from crosscheck.trace.reader import Segment


def percent(part: int, whole: int) -> str:
    """Return a share in words; it is `all` only if nothing is missing."""
    return "all" if part == whole else f"{math.floor(1e4 * part / whole) / 100:g} %"


def join(segment: Segment, twice: list[range], compared: int) -> str:
    """Say how a segment joins those before it. `compared`: tensors whose state was held against what was left."""
    step = segment.header.first_step
    said = f"a run resumed here, at step {step}, recorded {segment.folder.name}; "
    if step == 1:
        said += "from the beginning again"
    elif compared:
        said += f"its {compared} tensors and their slots were held, bit for bit, against what step {step - 1} left"
    else:
        said += f"what step {step - 1} left is not on record, so nothing says whether the run went on from there"
    return f"{said}; {spans(twice)} recorded before as well, and judged both times" if twice else said


def of_loads(loaded: dict[int, set[str]]) -> Iterator[str]:
    """Say before which steps the optimizer's state was loaded, and whether that changed it."""
    same = [step for step, names in loaded.items() if not names]
    if same:
        yield f"state was loaded before {spans(runs(same))}: it is, bit for bit, what the step before had left"
    others = {step: names for step, names in loaded.items() if names}
    if others:
        names = ", ".join(sorted(set[str]().union(*others.values())))
        yield f"state was loaded before {spans(runs(others))}: it is not what the step before had left ({names})"


def of_claims(claimed: dict[str, set[int]]) -> Iterator[str]:
    """Say what the trainer changed between steps, as it claims, and which of its claims were not needed."""
    for name, steps in claimed.items():
        if steps:
            yield f"{name} was changed before {spans(runs(sorted(steps)))}, outside the optimizer's step, as the trainer claims"
        else:
            yield f"{name} never changed between steps, though the trainer claims that it may"
