"""Draws what each parameter of SGD and Adam does, and writes the tables beside it, from the runs of docs/parameters.txt.

python docs/make_parameters.py FOLDER_OF_RUNS
"""

import json
import math
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot

HERE = Path(__file__).parent
_SMOOTH = 0.95  # share of the loss before that stays in the curve, which bias is corrected for
_POINTS = 200  # of a line
_HEADING = "# == "
_OPTIMIZERS = ("SGD", "Adam")  # how the titles of the panels of parameters.md begin; the others are of learning-rate.md


@dataclass(frozen=True, slots=True)
class Panel:
    """Runs that differ in one thing."""

    title: str
    runs: dict[str, str]  # the name of each by its value


def panels(file: Path) -> list[Panel]:
    """Return what the sweep's file lists."""
    found: list[Panel] = []
    for line in file.read_text().splitlines():
        if line.startswith(_HEADING):
            title, _, elsewhere = line.removeprefix(_HEADING).partition(" | ")
            label, _, run = elsewhere.partition(": ")
            found.append(Panel(title, {label: run} if run else {}))
        elif line and not line.startswith("#"):
            run = Path(shlex.split(line)[-1]).name
            found[-1].runs[_label(run)] = run
    return found


def _label(run: str) -> str:
    """Return what a run is called in its panel: the part of its name behind the parameter's."""
    if run.startswith("batch-"):
        return re.sub(r"batch-(\d+)-lr-([\d.]+)(-warmup)?", r"\1 at \2\3", run).replace("-warmup", ", warm-up")
    if run.endswith(("foreach-true", "fused-false")):
        return "foreach" if "foreach" in run else "single"
    return run.split("-", 2 if run.count("-") > 1 else 1)[-1]


def _records(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def _smoothed(losses: Sequence[float]) -> list[float]:
    smooth: list[float] = []
    total = 0.0
    for number, loss in enumerate(losses, start=1):
        total = _SMOOTH * total + (1 - _SMOOTH) * loss
        smooth.append(total / (1 - _SMOOTH**number))
    return smooth


def _accuracy(folder: Path) -> str:
    """Return the test accuracy at the end, or what became of the run."""
    epochs = _records(folder, "epoch")
    summary = folder / "summary.json"
    if summary.is_file() and epochs:
        return f"{epochs[-1]['test_accuracy']:.1%}"
    steps = _records(folder, "step")
    return f"ended at step {steps[-1]['step'] + 1}: the loss was not finite" if steps else "none"


def _draw(drawn: Sequence[Panel], runs: Path, columns: int, to: Path) -> None:
    rows = math.ceil(len(drawn) / columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(3.1 * columns, 2.35 * rows), layout="constrained", squeeze=False, sharey=True
    )
    for axis, panel in zip(axes.flat, drawn, strict=False):
        colors = mpl.colormaps["viridis"](
            [0.9 * number / max(1, len(panel.runs) - 1) for number in range(len(panel.runs))]
        )
        for color, (label, run) in zip(colors, panel.runs.items(), strict=True):
            steps = _records(runs / run, "step")
            share = [step["step"] / steps[-1]["step"] for step in steps] if "atch" in panel.title else None
            x = [2 * part for part in share] if share else [step["step"] for step in steps]
            losses = _smoothed([step["loss"] for step in steps])
            every = -(-len(x) // _POINTS)
            axis.plot(x[::every], losses[::every], color=color, linewidth=1.3, label=label)
        axis.set_title(panel.title, fontsize=9)
        axis.set_ylim(0.9, 2.6)
        axis.set_xlabel("epoch" if "atch" in panel.title else "step", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.legend(frameon=False, fontsize=7, handlelength=1.2, loc="lower left" if "lr" in panel.title else "best")
    for axis in axes.flat[len(drawn) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("training loss, smoothed", fontsize=8)
    figure.savefig(to, metadata={"Date": None})


def _table(listed: Sequence[Panel], runs: Path) -> str:
    lines = ["| runs | test accuracy after two epochs |", "|---|---|"]
    for panel in listed:
        values = ", ".join(f"{label}: {_accuracy(runs / run)}" for label, run in panel.runs.items())
        lines.append(f"| {panel.title} | {values} |")
    return "\n".join(lines)


def _put(page: Path, table: str) -> None:
    """Replace the table between the marks of the page."""
    text = page.read_text(encoding="utf-8")
    begin, end = "<!-- measured -->\n", "<!-- /measured -->"
    before, _, rest = text.partition(begin)
    page.write_text(f"{before}{begin}\n{table}\n\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def main(folder: str) -> None:
    """Draw both figures and write both tables."""
    mpl.rcParams.update(
        {
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "svg.hashsalt": "1",
            "svg.fonttype": "none",
        }
    )
    runs, listed = Path(folder), panels(HERE / "parameters.txt")
    of_optimizers = [panel for panel in listed if panel.title.startswith(_OPTIMIZERS)]
    others = [panel for panel in listed if panel not in of_optimizers]
    rates = [panel for panel in of_optimizers if panel.title.endswith(", lr")]
    _draw(of_optimizers, runs, 4, HERE / "parameters.svg")
    _draw([*rates, *others], runs, 4, HERE / "learning-rate.svg")
    _put(HERE / "parameters.md", _table(of_optimizers, runs))
    _put(HERE / "learning-rate.md", _table([*rates, *others], runs))


if __name__ == "__main__":
    main(*sys.argv[1:])
