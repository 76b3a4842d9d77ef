"""Writes into docs/criterion.md which mistakes survive under which tolerance, and draws docs/criterion.svg.

python -m tests.crosscheck.generated.survivors [--runs 1000]
"""

import argparse
import platform
import tempfile
from collections import Counter
from pathlib import Path

import torch

from crosscheck import Verdict
from tests.crosscheck.generated.drawing import draw, eta_of
from tests.crosscheck.generated.runs import Outcome, outcomes
from tests.crosscheck.generated.tolerances import SECOND_RUN, TOLERANCES, accepted_by
from tests.documents import CRITERION, write_section

PLOT = CRITERION.with_suffix(".svg")
OURS = "this cross-check"


def main() -> None:
    """Execute the runs, write the table and draw the plot."""
    parser = argparse.ArgumentParser(prog="python -m tests.crosscheck.generated.survivors", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="mistakes, and as many correct runs")
    runs: int = parser.parse_args().runs
    torch.set_num_threads(1)
    survived, blamed = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="survivors-") as folder:
        faulty = list(outcomes(range(runs), Path(folder) / "mistakes", faulty=True))
        correct = list(outcomes(range(runs), Path(folder) / "correct", faulty=False))
    for outcome in faulty:
        if outcome.visible:
            survived.update(_accepting(outcome))
    finite = [outcome for outcome in correct if _is_finite(outcome)]
    for outcome in finite:
        blamed.update({*TOLERANCES, SECOND_RUN, OURS} - _accepting(outcome))
    write_section(CRITERION, "survivors", _section(faulty, correct, len(finite), survived, blamed))
    draw(faulty, correct, PLOT)


def _accepting(outcome: Outcome) -> set[str]:
    """Return the names of what finds nothing wrong with a run."""
    ours = set[str]() if outcome.verdict is Verdict.MISMATCH else {OURS}
    return accepted_by(outcome.case, outcome.trajectory.end) | ours


def _is_finite(outcome: Outcome) -> bool:
    return all(bool(value.isfinite().all()) for value in outcome.trajectory.end.values())


def _section(
    faulty: list[Outcome], correct: list[Outcome], finite: int, survived: Counter[str], blamed: Counter[str]
) -> str:
    visible = [outcome for outcome in faulty if outcome.visible]
    silent = sum(outcome.verdict is Verdict.VACUOUS for outcome in correct)
    rows = [
        f"| {name} | {survived[name]} of {len(visible)} | {blamed[name]} of {finite} |"
        for name in (SECOND_RUN, *TOLERANCES, OURS)
    ]
    worst = max(outcome.report.max_eta for outcome in correct if outcome.report is not None)
    weakest = min(eta_of(outcome) for outcome in visible if outcome.verdict is Verdict.MISMATCH)
    return f"""\
{len(faulty)} mistakes were drawn, each in a setting drawn from what people use. Of these, {len(visible)} change some number by more
than rounding can explain, in ten steps of three small tensors. The table says how many of them a comparison accepts, and how
many correct runs it rejects. Of {len(correct)} correct runs, {len(correct) - finite} do not stay finite (Adam in plain float16 loses
its eps), so they are left out of it.

| compared | mistakes that survive | correct runs that are rejected |
|---|---|---|
{chr(10).join(rows)}

Each row but the first and the last compares the end of a run with that of a correct run by another of torch's implementations
(fused instead of single or foreach, and single instead of fused). The largest eta of the correct runs is {worst:.2f}, and the
smallest of a mistake that was found is {weakest:.2f}. {silent} of the correct runs move too little for an error to show, so their
verdict is vacuous.

![Error of a step against eta](criterion.svg)

This section and the plot are made by `python -m tests.crosscheck.generated.survivors --runs {len(correct)}` (torch
{torch.__version__}, one run, {platform.machine()} CPU).
"""


if __name__ == "__main__":
    main()
