"""Measures whether a report names the true cause of a single drawn mistake, and how well it estimates a wrong number.

python -m tests.crosscheck.generated.causes [--runs 400] [--first 0] [--write]

A mistake counts if it shows in an element by more than twice what rounding explains. What the catalogue does not have must
get no name. Every wrong answer is printed with its run, then the figures; `--write` puts these into docs/criterion.md.
Ctrl-C ends the measurement with what there is.
"""

import argparse
import platform
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from crosscheck import Report, Verdict
from tests.crosscheck.generated.expected import true_sentences
from tests.crosscheck.generated.runs import Case, Outcome, draw_case, execute
from tests.documents import CRITERION, write_section

UNEXPLAINED = "no mistake of the catalogue explains it"
_NUMBER = r"(-?[\d.e+-]+)"
_ESTIMATE = re.compile(rf"\(consistent with (?:1 - )?(\w+) x {_NUMBER} ± {_NUMBER}\)")
_TOGETHER = re.compile(
    rf"all elements together are consistent with (?:1 - )?(\w+) x {_NUMBER}, where rounding explains x 1 ± {_NUMBER}"
)
_SHOWS = 2.0


@dataclass
class Answers:
    """What the reports said."""

    runs: int = 0
    """Those that were drawn, with one mistake or two."""
    named: int = 0
    """Mistakes of the catalogue whose true cause is among those named."""
    first: int = 0
    """Those of them whose true cause comes first."""
    catalogued: int = 0
    nameless: int = 0
    """Mistakes outside the catalogue that got no name."""
    outside: int = 0
    estimates: int = 0
    exact: int = 0
    """Estimates whose error is within what they state."""
    slowest: float = 0.0
    wrong: list[str] = field(default_factory=list[str])


def main() -> None:
    """Execute the runs and print what they came to."""
    parser = argparse.ArgumentParser(prog="python -m tests.crosscheck.generated.causes", description=__doc__)
    parser.add_argument(
        "--runs", type=int, default=400, help="drawn runs; a quarter of them has two mistakes and is left out"
    )
    parser.add_argument("--first", type=int, default=0, help="the seed of the first run")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/criterion.md")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    answers, seeds = Answers(), range(chosen.first, chosen.first + chosen.runs)
    with tempfile.TemporaryDirectory(prefix="causes-") as folder, suppress(KeyboardInterrupt):
        for seed in seeds:
            case = draw_case(seed, faulty=True)
            if len(case.mistakes) == 1:
                started = time.monotonic()
                take_in(answers, execute(case, Path(folder) / f"{seed}"))
                answers.slowest = max(answers.slowest, time.monotonic() - started)
            answers.runs += 1
    for line in answers.wrong:
        print(line)
    section = told(answers, chosen.first)
    print(section)
    if chosen.write:
        write_section(CRITERION, "causes", section)


def take_in(answers: Answers, outcome: Outcome) -> None:
    """Count what the report of a run says of its cause, if the mistake shows."""
    report, case = outcome.report, outcome.case
    if report is None or report.verdict is not Verdict.MISMATCH or not outcome.trajectory.excess > _SHOWS:
        return
    said = sentences(report)
    true = true_sentences(case)
    if true is None:
        answers.outside += 1
        if any(UNEXPLAINED in sentence for sentence in said) or not said:
            answers.nameless += 1
        else:
            answers.wrong.append(_line("outside the catalogue, but named", case, said))
        return
    answers.catalogued += 1
    places = [place for place, sentence in enumerate(said) if true.match(sentence)]
    answers.named += bool(places)
    answers.first += 0 in places
    if 0 not in places:
        answers.wrong.append(_line("not first" if places else "not named", case, said))
    (planted,) = case.mistakes
    for name, found, error in estimates(said[places[0]] if places else ""):
        if name in planted.wrong:
            answers.estimates += 1
            good = abs(found - planted.wrong[name]) <= error
            answers.exact += good
            if not good:
                answers.wrong.append(_line("estimate beyond its error", case, said))


def sentences(report: Report) -> list[str]:
    """Return the causes that a report names, the first first: of the optimizer, or of what is around it."""
    told: dict[str, None] = {}
    for finding in report.findings:
        _, claimed, causes = finding.cause.partition(" makes of the recorded inputs: ")
        each = causes.split("; it is in ")[0].split(" or ") if claimed else [finding.cause]
        told |= dict.fromkeys(each)
    return list(told)


def estimates(sentence: str) -> Iterator[tuple[str, float, float]]:
    """Yield the name, the factor and the stated error of each number that a sentence estimates."""
    for pattern in (_ESTIMATE, _TOGETHER):
        for name, factor, error in pattern.findall(sentence):
            yield name, float(factor), float(error)


def told(answers: Answers, first: int) -> str:
    """Return the figures in sentences."""

    def share(part: int, whole: int) -> str:
        return f"{part} of {whole} ({part / whole:.1%})" if whole else "none"

    return f"""\
Of {answers.runs} drawn mistakes (seeds from {first}), those count that are single and show in an element by more than twice what rounding
explains. Of those that the catalogue of causes has, the true one is named in {share(answers.named, answers.catalogued)}, and comes first in
{share(answers.first, answers.catalogued)}. Estimates of a wrong hyperparameter are within their stated error in
{share(answers.exact, answers.estimates)}. Of mistakes that the catalogue does not have, {share(answers.nameless, answers.outside)} get no name.

Measured by `python -m tests.crosscheck.generated.causes --runs {answers.runs} --first {first}` (torch {torch.__version__}, one run,
{platform.machine()} CPU); the slowest run, training and replay included, took {answers.slowest:.1f} s.
"""


def _line(what: str, case: Case, said: list[str]) -> str:
    return f"{what}: {case}\n    said: {said}"


if __name__ == "__main__":
    main()
