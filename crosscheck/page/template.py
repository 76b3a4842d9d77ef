"""The templates of all pages: one file that fetches nothing and runs nothing, in which what comes from outside is text."""

import base64
import hashlib
import time
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from crosscheck.page.scale import number
from crosscheck.report.report import Power
from crosscheck.text import one_line


def fill(template: str, **values: Any) -> str:
    """Return the page that the template makes of the values."""
    page = (
        _environment()
        .get_template(template)
        .render(
            **values,
            made=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            style=_style(),
            hash=_hash(_style()),
        )
    )
    return page.encode("utf-8", "backslashreplace").decode("utf-8")  # names need not be Unicode that can be written


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
    return one_line(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _exact(value: float | None) -> str:
    return "–" if value is None else f"{value:.9g}"


def _thousands(value: int) -> str:
    return f"{value:,}"


def _power(smallest: float) -> str:
    """Return a relative error as `Power` says it: none, where it would have to be larger than the number itself."""
    return str(Power(element=smallest, aggregate=smallest))


@cache
def _style() -> Markup:
    return Markup(files("crosscheck.page").joinpath("assets", "page.css").read_text(encoding="utf-8"))  # noqa: S704


def _hash(text: str) -> str:
    """Return what the page's policy allows as its style: this text, and nothing that data brings."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
