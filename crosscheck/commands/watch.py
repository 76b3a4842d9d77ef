"""Replay a trace while it grows.

It reads each part of the trace as it appears, says on standard error what it waits for, and prints a report at the end. Exit
codes: 1 as soon as there is a mismatch; 0 once the trace is closed and matches, or 3 if it proves nothing; 2 bad input; 4
nothing new came for --timeout seconds, with the report on what is there; 70 an error in this program; 130 interrupted. A trace
that does not exist yet is waited for, and a run that is started again is followed into its next segment.
"""

import argparse
from contextlib import suppress
from functools import partial
from pathlib import Path

from crosscheck.commands.files import add_files, expect_files, show
from crosscheck.commands.jax_modules import import_jax
from crosscheck.commands.output import tell
from crosscheck.report.verdict import EXIT_CODES

HELP = "replay a trace while it grows, until a mismatch or its end"
EXIT_TIMED_OUT = 4


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "trace", type=Path, help="a trace, or the folder of a run that holds one; it may be still to come"
    )
    add_files(parser)
    seconds = partial(parser.add_argument, type=_seconds, metavar="SECONDS")
    seconds("--timeout", help="give up when nothing new came for so long (default: never)")
    seconds("--every", default=1.0, help="time between two looks at the folder (default: 1)")
    seconds(
        "--linger",
        default=0.0,
        help="wait so long for another segment once the trace is closed, as by a job that is requeued (default: 0)",
    )


def run(options: argparse.Namespace) -> int:
    """Follow the trace, print the report, and return the exit code."""
    expect_files(json=options.json, html=options.html, junit=options.junit)
    import_jax()
    from crosscheck.follower import Follower, NothingCame

    follower = Follower(
        path=options.trace, tell=tell, every=options.every, timeout=options.timeout, linger=options.linger
    )
    try:
        report = follower.follow()
    except NothingCame as error:
        if error.report is not None:
            show(error.report, options, str(options.trace))
        tell(str(error))
        return EXIT_TIMED_OUT
    show(report, options, str(options.trace))
    return EXIT_CODES[report.verdict]


def _seconds(text: str) -> float:
    """Read a number of seconds. Raises ArgumentTypeError."""
    with suppress(ValueError):
        if 0 <= (value := float(text)) < 1e9:
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, which is 0 or more")
