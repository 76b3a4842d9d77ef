"""The templates of all pages: one file that fetches nothing, and in which what comes from outside is text."""

import base64
import hashlib
import math
import time
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from distrib.page.charts import shown
from distrib.text import harmless

_SCRIPTS = ("uPlot.iife.min.js", "page.js")
_STYLES = ("uPlot.min.css", "page.css")


def fill(template: str, **values: Any) -> str:
    """Return the page that the template makes of the values, with its scripts and styles. `data` is for the script that draws."""
    page = (
        _environment()
        .get_template(template)
        .render(
            **values,
            made=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            scripts=[_asset(name) for name in _SCRIPTS],
            styles=[_asset(name) for name in _STYLES],
            hashes=_hashes(),
        )
    )
    return page.encode("utf-8", "backslashreplace").decode("utf-8")  # names of files need not be UTF-8


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("distrib.page", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {"number": _number, "finite": _finite, "percent": _percent, "thousands": _thousands}
    return environment


def _harmless(value: Any) -> Any:
    """Show what would reorder or hide text, such as a mark that turns the direction of writing."""
    return harmless(value) if isinstance(value, str) and not isinstance(value, Markup) else value


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


def _thousands(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


@cache
def _asset(name: str) -> Markup:
    """Return a file of ours to stand in the page as it is."""
    return Markup(files("distrib.page").joinpath("assets", name).read_text(encoding="utf-8"))  # noqa: S704


@cache
def _hashes() -> dict[str, str]:
    """Return by kind what the page's policy allows to run and to style: these texts, and nothing that data brings."""
    found = {"script": _SCRIPTS, "style": _STYLES}
    return {kind: " ".join(_hash(_asset(name)) for name in names) for kind, names in found.items()}


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
