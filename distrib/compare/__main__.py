"""Compare runs side by side, from the files in their folders.

It prints the results of all runs and the keys of the configuration in which they differ. For each run after the first it prints
at which step a number first differs from the first run's, and at which step it first differs by more than a thousandth. Rounding
alone also gets there, in bf16 within tens of steps. Exit codes: 0 done, 2 bad input.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distrib.arguments import Parser
from distrib.compare.parting import Parting, common_steps, differing_keys, first_beyond_thousandth, first_difference
from distrib.compare.read import read_run
from distrib.compare.text import notes, text
from distrib.errors import EXIT_DONE, BadInput
from distrib.exits import run_command
from distrib.files import to_json, write_atomically
from distrib.page.live import available
from distrib.page.run_files import RunFiles
from distrib.text import harmless, print_error


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, print, and return the exit code."""
    return run_command(lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    parser = Parser(prog="twinstep compare", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="the folder of a run")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with all curves on one chart")
    given = parser.parse_args(arguments)
    if len(given.runs) < 2:
        raise BadInput("one run cannot be compared: give two or more")
    if given.html is not None and not available():
        raise BadInput(
            f"--html {given.html} needs Jinja2, which is not installed here: pip install '.[page]' in a clone of Twinstep"
        )
    runs = [read_run(folder) for folder in given.runs]
    if given.html is not None:
        _write_page(given.html, runs)
    if given.json:
        for note in notes(runs):
            print_error(note)
    print(to_json(_as_json(runs), indent=2) if given.json else harmless(text(runs)))
    return EXIT_DONE


def _write_page(file: Path, runs: Sequence[RunFiles]) -> None:
    from distrib.compare.page import render  # only now: it needs Jinja2

    try:
        write_atomically(file, render(runs))
    except OSError as error:
        raise BadInput(f"--html {file} cannot be written ({error.strerror}): give the path of a file") from None


def _as_json(runs: Sequence[RunFiles]) -> dict[str, Any]:
    first, *others = runs
    return {
        "runs": {run.name: run.summary.model_dump() if run.summary else {} for run in runs},
        "configuration": differing_keys(runs),
        "partings": {
            other.name: {
                "common_steps": common_steps(first, other),
                "first_difference": _parting_as_json(first_difference(first, other)),
                "first_beyond_thousandth": _parting_as_json(first_beyond_thousandth(first, other)),
            }
            for other in others
        },
    }


def _parting_as_json(parting: Parting | None) -> dict[str, Any] | None:
    return None if parting is None else asdict(parting)


if __name__ == "__main__":
    sys.exit(main())
