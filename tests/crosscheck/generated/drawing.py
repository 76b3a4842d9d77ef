"""Draws the size of an error against the eta that the replay gave it, for drawn mistakes and for correct runs."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot

from crosscheck import Verdict
from crosscheck.tolerance import FAIL
from tests.crosscheck.generated.runs import Outcome

# Okabe and Ito's colours, which colour-blind people can tell apart; the shapes of the marks differ as well.
BLUE, GRAY, VERMILION, GREEN = "#0072B2", "#777777", "#D55E00", "#009E73"
ERRORS, ETAS = (1e-17, 1e4), (1e-3, 1e9)
"""What is drawn; what lies outside is drawn at the edge."""


def eta_of(outcome: Outcome) -> float:
    """Return the largest eta of a run, whatever check it is of; infinite for what rounding cannot do at all."""
    if outcome.report is None:
        return math.inf
    return max([outcome.report.max_eta, *(finding.eta for finding in outcome.report.findings)])


def draw(faulty: Sequence[Outcome], correct: Sequence[Outcome], file: Path) -> None:
    """Draw all runs in one picture."""
    mpl.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "1"})
    figure, axes = pyplot.subplots(figsize=(9.6, 5.4), layout="constrained")
    found = [o for o in faulty if o.verdict is Verdict.MISMATCH]
    missed = [o for o in faulty if o.verdict is not Verdict.MISMATCH]
    _scatter(axes, found, BLUE, "o", "mistakes that are found")
    _scatter(axes, correct, GREEN, "s", "correct runs")
    _scatter(axes, [o for o in missed if not o.visible], GRAY, "^", "mistakes that rounding hides")
    _scatter(axes, [o for o in missed if o.visible], VERMILION, "X", "mistakes that are missed")
    axes.axhspan(ETAS[0] / 2, FAIL, color="0.94", zorder=0)
    axes.axhline(FAIL, color="black", linewidth=1)
    axes.annotate(f"limit: eta = {FAIL:g}", (1e-17, FAIL), xytext=(0, 4), textcoords="offset points")
    axes.set(
        xscale="log",
        yscale="log",
        xlim=(ERRORS[0] / 3, ERRORS[1] * 3),
        ylim=(ETAS[0] / 2, ETAS[1] * 3),
        xlabel="error of a step, relative to what the step changes",
        ylabel="eta",
        title="The size of an error does not tell a mistake from rounding; eta does",
    )
    axes.set_xticks([10.0**power for power in range(-16, 5, 4)], minor=False)
    axes.set_yticks([10.0**power for power in range(-3, 10, 2)], minor=False)
    axes.legend(loc="upper left", frameon=False, bbox_to_anchor=(0.0, 0.97), markerscale=1.6)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _scatter(axes: Any, outcomes: Sequence[Outcome], color: str, mark: str, label: str) -> None:
    if outcomes:
        axes.scatter(
            np.clip([outcome.trajectory.error for outcome in outcomes], *ERRORS),
            np.clip([eta_of(outcome) for outcome in outcomes], *ETAS),
            s=16,
            c=color,
            marker=mark,
            alpha=0.55,
            linewidths=0,
            label=f"{label} ({len(outcomes)})",
        )
