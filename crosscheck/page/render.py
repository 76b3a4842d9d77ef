"""Renders a report as one self-contained HTML page."""

from crosscheck.page import charts
from crosscheck.page.scale import CLASSES
from crosscheck.page.template import fill
from crosscheck.report.advice import RECORD, TEST
from crosscheck.report.report import Report
from crosscheck.tolerance import FAIL, WARN

_WRITTEN_OUT = 6  # findings
_FINDINGS = 50


def render(report: Report, title: str) -> str:
    """Return the page. Whatever names the record holds are text in it, and never markup."""
    survey = report.survey
    return fill(
        "report.html.jinja",
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
        unanswered=[name for name, result in report.checks.items() if not result.is_answer],
        classes=CLASSES,
        warn=WARN,
        fail=FAIL,
        frame=charts,
    )


def _options(report: Report) -> list[tuple[str, list[str]]]:
    """Return each option with its value in each group; of one that changed the first and the last."""
    names = dict.fromkeys(name for group in report.options.values() for name in group)
    return [
        (name, [_option(*group[name]) if name in group else "–" for group in report.options.values()]) for name in names
    ]


def _option(first: object, last: object) -> str:
    return _value(first) if first == last else f"{_value(first)} … {_value(last)}"


def _value(option: object) -> str:
    return f"{option:.6g}" if isinstance(option, float) else str(option)
