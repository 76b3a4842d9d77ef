"""Repeat one run by its seed and print what it came to: `python -m tests.crosscheck.generated 43 [--correct] [--trace DIR]`."""

import argparse
import tempfile
from pathlib import Path

from tests.crosscheck.generated.runs import draw_case, execute


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.crosscheck.generated", description=__doc__)
    parser.add_argument("seed", type=int, help="as a failed test names it")
    parser.add_argument("--correct", action="store_true", help="the run without a mistake, which has other settings")
    parser.add_argument("--trace", type=Path, help="a new folder in which to keep the trace")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="generated-") as folder:
        outcome = execute(draw_case(chosen.seed, faulty=not chosen.correct), chosen.trace or Path(folder) / "trace")
    print(outcome)
    print(outcome.report if outcome.report is not None else outcome.refused)


if __name__ == "__main__":
    main()
