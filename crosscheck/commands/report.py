"""Replay a recorded run, print the verdict, and write a page that shows the result.

The options are those of replay. Unless --html says where, the page is beside the trace: RUN/crosscheck.html for the folder of a
run, and TRACE.html for a trace. Exit codes: 0 match; 1 mismatch; 2 bad input; 3 vacuous, which means that nothing on record could
have contradicted the formula; 70 an error in this program; 130 interrupted.
"""

import argparse
from pathlib import Path

from crosscheck.commands import replay
from crosscheck.commands.output import tell

HELP = "replay, and write a page that shows the result, beside the trace"
add_options = replay.add_options


def run(options: argparse.Namespace) -> int:
    """Replay, print the report, write its page, and return the exit code."""
    options.html = options.html or _beside(options.trace[0])
    code = replay.run(options)
    tell(f"the page is {options.html}")
    return code


def _beside(trace: Path) -> str | None:
    """Return where the page of a trace, or of a run's folder, goes. What is no folder has none, and replay refuses it."""
    path = trace.resolve()
    if not path.is_dir():
        return None
    return str(path / "crosscheck.html" if (path / "trace").is_dir() else path.parent / f"{path.name}.html")
