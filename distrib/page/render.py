"""From a run's folder to its index.html."""

import base64
import hashlib
import math
import shlex
import time
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from distrib.display import harmless
from distrib.files import write_atomically
from distrib.page import PAGE, charts, timeline
from distrib.page.run_files import RunFiles, read_run

_SCRIPTS = ("uPlot.iife.min.js", "page.js")
_STYLES = ("uPlot.min.css", "page.css")


def write(folder: Path) -> None:
    """Write index.html into a run's folder. Raises OSError and ValueError."""
    write_atomically(folder / PAGE, render(read_run(folder)))


def render(run: RunFiles) -> str:
    """Return the page. Whatever the folder holds is text in it, and never markup."""
    drawn, happened = list(charts.charts(run)), list(timeline.events(run))
    data = {
        "charts": [chart.to_json() for chart in drawn],
        "marks": [{"step": e.step, "kind": e.kind, "text": harmless(e.text)} for e in happened if e.marked],
        "steps_per_epoch": run.facts.steps_per_epoch,
    }
    page = (
        _environment()
        .get_template("page.html.jinja")
        .render(
            run=run,
            charts=drawn,
            events=happened,
            data=data,
            epochs=charts.table_of_epochs(run),
            steps=charts.table_of_steps(run),
            confusion=_shaded(run.mistakes.confusion) if run.mistakes else [],
            settings=settings(run),
            repeat=shlex.quote(str(Path(run.facts.folder or run.name) / "config.toml")),
            made=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
            scripts=[_asset(name) for name in _SCRIPTS],
            styles=[_asset(name) for name in _STYLES],
            hashes=_hashes(),
        )
    )
    return page.encode("utf-8", "backslashreplace").decode("utf-8")  # names of files need not be UTF-8


def _shaded(confusion: list[list[int]]) -> list[list[tuple[int, int]]]:
    """Return with each count its shade, 0 to 9, by its share of the images of its class."""
    return [[(count, min(9, 10 * count // max(1, sum(row)))) for count in row] for row in confusion]


def settings(run: RunFiles) -> list[tuple[str, str, str, bool]]:
    """Return key, value, default and whether they differ, for each key of the configuration; those that differ first."""
    defaults = run.facts.defaults
    rows = [
        (key, _value(run.config.get(key)), _value(defaults[key]) if key in defaults else "", _differs(run, key))
        for key in sorted({*run.config, *defaults})
    ]
    return sorted(rows, key=lambda row: not row[3])


def _differs(run: RunFiles, key: str) -> bool:
    return key not in run.facts.defaults or run.config.get(key) != run.facts.defaults[key]


def _value(value: object) -> str:
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


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
    environment.filters |= {"number": _number, "percent": _percent}
    return environment


def _harmless(value: Any) -> Any:
    """Show what would reorder or hide text, such as a mark that turns the direction of writing."""
    return harmless(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _percent(value: float) -> str:
    return charts.shown(value, "percent")


def _number(value: float | str | None) -> str:
    """Return a number of a report, which may be the text inf or nan."""
    if value is None or isinstance(value, str):
        return value or "–"
    return f"{value:.3g}" if math.isfinite(value) else str(value)


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
