"""The templates of the cross-check's pages, which run nothing."""

from functools import cache
from typing import Any

from crosscheck.page.scale import number
from crosscheck.report.report import Power
from crosscheck.templates import Templates
from crosscheck.text import one_line


def fill(template: str, **values: Any) -> str:
    """Return the page that the template makes of the values."""
    return _templates().fill(template, **values)


@cache
def _templates() -> Templates:
    filters = {"eta": number, "exact": _exact, "power": _power}
    return Templates("crosscheck.page", styles=["page.css"], filters=filters, escape=one_line)


def _exact(value: float | None) -> str:
    return "–" if value is None else f"{value:.9g}"


def _power(smallest: float) -> str:
    """Return a relative error as `Power` says it: none, where it would have to be larger than the number itself."""
    return str(Power(element=smallest, aggregate=smallest))
