"""The templates of a run's pages, with the scripts and styles that draw charts."""

import math
from functools import cache
from typing import Any

from crosscheck.templates import Templates
from distrib.page.charts import shown
from distrib.text import harmless


def fill(template: str, **values: Any) -> str:
    """Return the page that the template makes of the values, of which `data` is for the script that draws."""
    return templates().fill(template, **values)


@cache
def templates() -> Templates:
    """Return the templates, which are read once."""
    return Templates(
        "distrib.page",
        styles=["uPlot.min.css", "page.css"],
        scripts=["uPlot.iife.min.js", "page.js"],
        filters={"number": _number, "finite": _finite, "percent": _percent},
        escape=harmless,
    )


def _percent(value: float) -> str:
    return shown(value, "percent")


def _number(value: float | str | None) -> str:
    """Return a number of a report, which may be the text inf or nan."""
    if value is None or isinstance(value, str):
        return value or "–"
    return f"{value:.3g}" if math.isfinite(value) else str(value)


def _finite(value: float) -> str:
    """Return a number of metrics.jsonl, which has null in place of infinity and NaN."""
    return _number(value) if math.isfinite(value) else "not finite"
