"""Compute each recorded step of a run again with Optax, and print the verdict.

Exit codes: 0 match; 1 mismatch; 2 bad input; 3 vacuous, which means that nothing on record could have contradicted the formula;
70 an error in this program; 130 interrupted.
"""

import argparse
from pathlib import Path

from crosscheck.checks import CHECKS
from crosscheck.commands.files import add_files, expect_files, show
from crosscheck.commands.jax_modules import import_jax
from crosscheck.report.verdict import EXIT_CODES

HELP = "compute each recorded step of a run again with Optax, and print the verdict"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "trace",
        type=Path,
        nargs="+",
        help="a trace, or the folder of a run that holds one; several if each rank of a run has one",
    )
    add_require(parser)
    add_files(parser)


def add_require(parser: argparse.ArgumentParser) -> None:
    """Add the option that names checks which the record must be able to answer."""
    parser.add_argument(
        "--require",
        metavar="CHECK",
        action="append",
        choices=CHECKS,
        default=[],
        help=f"refuse a trace that cannot answer this check (may be given again): {', '.join(CHECKS)}",
    )


def run(options: argparse.Namespace) -> int:
    """Replay, print the report, write it as the options say, and return the exit code."""
    expect_files(json=options.json, html=options.html, junit=options.junit)
    import_jax()
    from crosscheck.replayer import replay

    report = replay(*options.trace, require=options.require)
    show(report, options, str(options.trace[0]))
    return EXIT_CODES[report.verdict]
