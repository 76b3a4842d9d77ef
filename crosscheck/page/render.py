"""From a report to its page."""

import base64
import hashlib
import time
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from crosscheck.page import charts
from crosscheck.page.scale import CLASSES, number
from crosscheck.report.advice import RECORD, TEST
from crosscheck.report.report import NOT_RECORDED, NOT_TESTED, Power, Report
from crosscheck.text import shown
from crosscheck.tolerance import FAIL, WARN

_WRITTEN_OUT = 6  # findings
_FINDINGS = 50


def render(report: Report, title: str) -> str:
    """Return the page. Whatever names the record holds are text in it, and never markup."""
    survey = report.survey
    page = (
        _environment()
        .get_template("report.html.jinja")
        .render(
            report=report,
            title=title,
            headline=report.headline().partition(": ")[2],
            survey=survey,
            curves=survey and charts.curves(report, survey),
            strips=charts.strips(survey) if survey else [],
            histogram=survey and charts.histogram(survey),
            spans=[charts.span(survey, column) for column in range(survey.num_spans)] if survey else [],
            ranges=list(charts.ranges()),
            findings=report.findings[:_FINDINGS],
            written_out=[finding for finding in report.findings if finding.arithmetic][:_WRITTEN_OUT],
            options=_options(report),
            advice=RECORD,
            how_to_test=TEST,
            unanswered=[name for name, result in report.checks.items() if result in (NOT_RECORDED, NOT_TESTED)],
            classes=CLASSES,
            warn=WARN,
            fail=FAIL,
            frame=charts,
            made=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            style=_style(),
            hash=_hash(_style()),
        )
    )
    return page.encode("utf-8", "backslashreplace").decode("utf-8")  # names need not be Unicode that can be written


def _options(report: Report) -> list[tuple[str, list[str]]]:
    """Return each option with its value in each group; of one that changed the first and the last."""
    names = dict.fromkeys(name for group in report.options.values() for name in group)
    return [
        (name, [_option(*group[name]) if name in group else "–" for group in report.options.values()]) for name in names
    ]


def _option(first: object, last: object) -> str:
    return str(first) if first == last else f"{first} … {last}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("crosscheck.page", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    environment.filters |= {"eta": number, "exact": _exact, "thousands": _thousands, "power": _power}
    return environment


def _harmless(value: Any) -> Any:
    """Show what would reorder or hide text, such as a mark that turns the direction of writing."""
    return shown(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _exact(value: float | None) -> str:
    return "–" if value is None else f"{value:.9g}"


def _thousands(value: int) -> str:
    return f"{value:,}"


def _power(smallest: float) -> str:
    """Return a relative error as `Power` says it: none, where it would have to be larger than the number itself."""
    return str(Power(element=smallest, aggregate=smallest))


@cache
def _style() -> Markup:
    return Markup(files("crosscheck.page").joinpath("assets", "report.css").read_text(encoding="utf-8"))  # noqa: S704


def _hash(text: str) -> str:
    """Return what the page's policy allows as its style: this text, and nothing that data brings."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
