"""The files that a replay writes its report to: JSON, a page, JUnit XML."""

import argparse
from importlib.util import find_spec

from crosscheck.commands.output import expect_writable, say_report, write
from crosscheck.report.junit import to_junit
from crosscheck.report.report import Report


def add_files(parser: argparse.ArgumentParser) -> None:
    """Add the options that name them."""
    parser.add_argument("--json", metavar="FILE", help="also write the report as JSON")
    parser.add_argument(
        "--html", metavar="FILE", help="also write it as a page with charts, which needs the extra page"
    )
    parser.add_argument("--junit", metavar="FILE", help="also write it as JUnit XML: a test for each tensor and slot")


def expect_files(*, json: str | None, html: str | None, junit: str | None = None) -> None:
    """Check before the work whether they can be written. Raises Unwritable, and ModuleNotFoundError without Jinja2."""
    for option, to in (("--json", json), ("--html", html), ("--junit", junit)):
        if to is not None:
            expect_writable(option, to)
    if html is not None and find_spec("jinja2") is None:
        raise ModuleNotFoundError(name="jinja2")


def show(report: Report, options: argparse.Namespace, title: str) -> None:
    """Print the report, and write the files that are named. Raises Unwritable.

    A file that cannot be written does not hide the verdict, and standard output that takes nothing does not hide the files.
    """
    try:
        say_report(report)
    finally:
        _write_files(report, options, title)


def _write_files(report: Report, options: argparse.Namespace, title: str) -> None:
    """Write those that are named. Raises Unwritable."""
    if options.json is not None:
        write("--json", options.json, report.to_json() + "\n")
    if options.junit is not None:
        write("--junit", options.junit, to_junit(report))
    if options.html is not None:
        from crosscheck.page.render import render  # only now: it imports the template library

        write("--html", options.html, render(report, title))
