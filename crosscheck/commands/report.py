"""Replay a recorded run, and write a page that shows what it came to.

It is replay, with the same options and exit codes. Unless --html says where, the page is beside the trace: RUN/crosscheck.html
for the folder of a run, and TRACE.html for a trace.
"""

import argparse
from pathlib import Path

from crosscheck.commands import replay
from crosscheck.commands.output import tell

HELP = "replay, and write a page that shows what it came to, beside the trace; exit codes as of replay"
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
