"""Renders a run's folder as its index.html."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from distrib.config.messages import as_text
from distrib.files import write_atomically
from distrib.layout import CONFIG, PAGE
from distrib.page import charts, timeline
from distrib.page.figures import figures
from distrib.page.run_files import RunFiles, read_run
from distrib.page.template import fill
from distrib.text import harmless


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
    return fill(
        "page.html.jinja",
        run=run,
        charts=drawn,
        events=happened,
        data=data,
        epochs=charts.table_of_epochs(run),
        steps=charts.table_of_steps(run),
        confusion=_shaded(run.mistakes.confusion) if run.mistakes else [],
        figures=list(figures(run)),
        subject=list(_subject(run)),
        settings=settings(run),
        repeat=shlex.quote(str(Path(run.facts.folder or run.name) / CONFIG)),
    )


def _subject(run: RunFiles) -> Iterator[str]:
    """Yield what was trained, by which optimizer, on what and where, as far as the folder says so."""
    if "model.name" in run.config:
        yield f"network {run.config['model.name']}"
    if "optimizer.name" in run.config:
        yield f"optimizer {run.config['optimizer.name']}"
    if source := run.facts.data.get("source"):
        yield f"images {source}"
    if device := run.facts.machine.get("device"):
        yield str(device)
    if run.facts.precision is not None:
        yield "float32" if run.facts.precision == "no" else run.facts.precision


def _shaded(confusion: list[list[int]]) -> list[list[tuple[int, int]]]:
    """Return with each count its shade, 0 to 9, by its share of the images of its class."""
    return [[(count, min(9, 10 * count // max(1, sum(row)))) for count in row] for row in confusion]


def settings(run: RunFiles) -> list[tuple[str, str, str, bool]]:
    """Return key, value, default and whether they differ, for each key of the configuration; those that differ first."""
    defaults = run.facts.defaults
    rows = [
        (key, as_text(run.config.get(key)), as_text(defaults[key]) if key in defaults else "", _differs(run, key))
        for key in sorted({*run.config, *defaults})
    ]
    return sorted(rows, key=lambda row: not row[3])


def _differs(run: RunFiles, key: str) -> bool:
    return key not in run.facts.defaults or run.config.get(key) != run.facts.defaults[key]
