"""The table of a report."""

from statistics import median, quantiles

from tests.bench.contest import ratios
from tests.bench.entrants import TWINSTEP
from tests.bench.report import Report


def table(found: Report) -> list[str]:
    """Return the lines of a table in Markdown, the fastest loop first."""
    lines = [
        (
            f"| loop | images/s, median [quartiles] of {len(found.taken[TWINSTEP])} epochs | its time / {TWINSTEP}'s, round by "
            "round |"
        ),
        "|---|---|---|",
    ]
    for name in fastest_first(found):
        slow, mid, fast = (found.batch * found.steps / seconds for seconds in quantiles(walls(found, name), n=4)[::-1])
        low, ratio, high = ratios(walls(found, name), walls(found, TWINSTEP))
        compared = "" if name == TWINSTEP else f"{ratio:.2f} [{low:.2f}, {high:.2f}]"
        lines.append(f"| {name} | {mid:,.0f} [{slow:,.0f}, {fast:,.0f}] | {compared} |")
    return lines


def fastest_first(found: Report) -> list[str]:
    """Return the names of the loops, in the order of the medians of their epochs."""
    return sorted(found.taken, key=lambda name: median(walls(found, name)))


def walls(found: Report, name: str) -> list[float]:
    """Return the seconds that each epoch of a loop took."""
    return [epoch.wall for epoch in found.taken[name]]
