"""Train each run of a file on this machine.

Each line of FILE is a run, RECIPE [--section.key VALUE ...] in shell words; # starts a comment. The overrides after FILE apply to
all runs; those of a line take precedence. The same command continues a sweep that was stopped, and does not train complete runs
again. The folder of a run without --output.dir is named after the words of its line. Exit codes: 0 all are done, 1 some have
failed, 2 bad input, 75 stopped on request.
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distrib.arguments import Parser
from distrib.compare.read import read_run
from distrib.compare.text import row, row_heading
from distrib.errors import EXIT_DONE, EXIT_FAULT, EXIT_STOPPED, BadInput
from distrib.exits import run_command
from distrib.job.status import read_status
from distrib.layout import STATUS
from distrib.sweep.lines import read
from distrib.sweep.queue import PlannedRun, Queue, plan
from distrib.text import harmless, print_error


def main(arguments: Sequence[str] | None = None) -> int:
    """Train all runs, print a table, and return the exit code."""
    return run_command(lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    parser = Parser(
        prog="twinstep sweep",
        usage="%(prog)s [OPTION ...] FILE [--section.key VALUE ...]",
        description=__doc__,
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="a file with one run a line")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="how many runs train at the same time (default: %(default)s)"
    )
    parser.add_argument(
        "--dir",
        type=Path,
        metavar="FOLDER",
        help="folder of the runs without --output.dir (default: runs/ and the name of FILE)",
    )
    given, overrides = parser.parse_known_args(arguments)
    if given.jobs < 1:
        raise BadInput(f"--jobs {given.jobs}: at least one run at a time")
    lines = read(given.file)
    if not lines:
        raise BadInput(f"{given.file!r} holds no run; a run is a line: RECIPE [--section.key VALUE ...]")
    runs = plan(lines, given.dir or Path("runs") / Path(given.file).stem, overrides)
    codes = _train(runs, given.jobs)
    print(harmless(_table(runs, codes)))
    if any(code not in (EXIT_DONE, EXIT_STOPPED, None) for code in codes.values()):
        return EXIT_FAULT
    return EXIT_DONE if all(code == EXIT_DONE for code in codes.values()) else EXIT_STOPPED


def _train(runs: Sequence[PlannedRun], jobs: int) -> dict[int, int | None]:
    """Return the exit code of each run by the number of its line; None for one that was not begun."""
    codes: dict[int, int | None] = {run.line.number: None for run in runs}

    def tell(run: PlannedRun, code: int | None) -> None:
        if code is None:
            number = list(codes).index(run.line.number) + 1
            print(
                harmless(f"== {number} of {len(runs)}, line {run.line.number}: {' '.join(run.line.words)}"), flush=True
            )
            if run.line.problem:
                print_error(f"bad input: {run.line.problem}")
        else:
            codes[run.line.number] = code

    queue = Queue(runs, jobs, tell)

    def stop(number: int, _frame: Any) -> None:
        queue.stop(signal.Signals(number), pass_on=number != signal.SIGINT)

    earlier = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        queue.work()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    return codes


def _table(runs: Sequence[PlannedRun], codes: dict[int, int | None]) -> str:
    lines = ["", row_heading()]
    for run in runs:
        code = codes[run.line.number]
        lines.append(_result(run) if code == EXIT_DONE else f"{run.folder}: {_why(run, code)}")
    done = sum(code == EXIT_DONE for code in codes.values())
    return "\n".join([*lines, "", f"{done} of {len(runs)} runs done"])


def _result(run: PlannedRun) -> str:
    """Return what a run came to that is done."""
    try:
        return row(read_run(run.folder))
    except BadInput as error:  # somebody else's hand
        return f"{run.folder}: done, but {error}"


def _why(run: PlannedRun, code: int | None) -> str:
    """Return in a few words why a run is not done."""
    if code is None:
        return "not begun"
    if run.line.problem:
        return run.line.problem
    said = read_status(run.folder / STATUS)
    reason = said.get("reason") if said.get("exit_code") == code else ""
    return f"exit code {code}{f', {reason}' if reason else ''}"


if __name__ == "__main__":
    sys.exit(main())
