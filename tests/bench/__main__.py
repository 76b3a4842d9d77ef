"""`python -m tests.bench --out DIR` times the loops in turns on the CPU, and writes DIR/report.json.

A report is shown by `python -m tests.bench.page DIR/report.json`, which writes the tables and the plot of docs/performance.md.
The exit code is 0, or 2 for bad arguments.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench import contest, job, report
from tests.bench.entrants import ENTRANTS
from tests.bench.table import table


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="a folder, made if it is not there")
    parser.add_argument("--rounds", type=_above_one, default=7, help="epochs of each loop that count (default 7)")
    parser.add_argument("--steps", type=_above_one, default=job.STEPS, help=f"steps an epoch (default {job.STEPS})")
    given = parser.parse_args(arguments)
    try:
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out {given.out}: {error.strerror}: choose another folder")
    taken = contest.run(ENTRANTS, steps=given.steps, rounds=given.rounds, folder=given.out, tell=_tell)
    found = report.of(taken, given.steps, job.BATCH)
    found.write(given.out / "report.json")
    print("\n".join(table(found)))


def _above_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number above 1 is accepted")
    return int(text)


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
