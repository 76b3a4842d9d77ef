"""`python slurm/sweep_run.py FILE TASK` prints the words of the TASK-th run of a sweep, each ended by a NUL.

The exit code is 2 for bad input.
"""

import io
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

LONGEST_FILE = 10_000_000
"""How many characters of a file are read at most."""


def words(line: str) -> Iterator[str]:
    """Yield the line's words as a shell would split them, without its comment. Raises ValueError for an open quote."""
    text = io.StringIO(line)
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.commenters = True, ""  # shlex would also take a # within a word for a comment
    while not line[text.tell() :].lstrip().startswith("#"):
        word = lexer.get_token()
        if word is None:
            return
        yield word


def main(name: str, task: str) -> int:
    """Print the run of this task and return the exit code. A line that cannot be split into words is a run that fails by itself."""
    try:
        with Path(name).open(errors="surrogateescape") as file:
            text = file.read(LONGEST_FILE + 1)
    except OSError as error:
        return refuse(f"{name!r} cannot be read: {error.strerror}")
    if len(text) > LONGEST_FILE:
        return refuse(f"{name!r} is longer than the {LONGEST_FILE} characters that are read")
    runs: list[list[str] | str] = []  # the words of a run, or what is wrong with its line
    for number, line in enumerate(text.splitlines(), 1):
        try:
            run = list(words(line))
        except ValueError as error:
            runs.append(f"line {number}: {str(error).lower()}")
        else:
            runs += [run] if run else []
    way_out = f"{name!r} has {len(runs)} run(s): sbatch --array=1-{len(runs)} slurm/sweep.sbatch ..."
    if not task:
        return refuse(f"no SLURM_ARRAY_TASK_ID; {way_out}")
    if not (task.isascii() and task.isdecimal() and 1 <= int(task[:18]) <= len(runs)):
        return refuse(f"task {task} of the array has no run; {way_out}")
    run = runs[int(task) - 1]
    if isinstance(run, str):
        return refuse(f"{name!r}, {run}")
    sys.stdout.buffer.write(b"".join(os.fsencode(word) + b"\0" for word in run))
    return 0


def refuse(problem: str) -> int:
    """Print the problem and return the exit code for bad input."""
    print(f"bad input: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
