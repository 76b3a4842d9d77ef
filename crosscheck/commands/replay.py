"""`python -m crosscheck replay TRACE`: the verdict on a recorded run."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from crosscheck.checks import CHECKS
from crosscheck.commands.jax_modules import import_jax
from crosscheck.commands.output import expect_writable, say_report, write
from crosscheck.report.junit import to_junit
from crosscheck.report.report import EXIT_CODES

HELP = "replay a recorded run through Optax; exit 0 match, 1 mismatch, 2 bad input, 3 vacuous, 70 fault"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument(
        "trace",
        type=Path,
        nargs="+",
        help="a trace, or the folder of a run that holds one; several if each rank of a run has one",
    )
    add_require(parser)
    parser.add_argument("--json", metavar="FILE", help="also write the report as JSON")
    parser.add_argument(
        "--html", metavar="FILE", help="also write it as a page with charts, which needs the extra page"
    )
    parser.add_argument("--junit", metavar="FILE", help="also write it as JUnit XML: a test for each tensor and slot")


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
    if options.html is not None:
        expect_writable("--html", options.html)
        if find_spec("jinja2") is None:
            raise ModuleNotFoundError(name="jinja2")
    import_jax()
    from crosscheck.replayer import replay

    report = replay(*options.trace, require=options.require)
    if options.json is not None:
        write("--json", options.json, report.to_json() + "\n")
    if options.junit is not None:
        write("--junit", options.junit, to_junit(report))
    if options.html is not None:
        from crosscheck.page.render import render

        write("--html", options.html, render(report, str(options.trace[0])))
    say_report(report)
    return EXIT_CODES[report.verdict]
