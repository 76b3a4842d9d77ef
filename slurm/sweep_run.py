"""`python slurm/sweep_run.py FILE TASK` prints the words of the TASK-th run of a sweep, each ended by a NUL.

The exit code is 2 for bad input.
"""

import io
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path


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
    """Print the run of this task and return the exit code."""
    runs: list[list[str]] = []
    for number, line in enumerate(Path(name).read_text(errors="surrogateescape").splitlines(), 1):
        try:
            runs.append(list(words(line)))
        except ValueError as error:
            return refuse(f"{name!r}, line {number}: {str(error).lower()}")
    runs = [run for run in runs if run]
    way_out = f"{name!r} has {len(runs)} run(s): sbatch --array=1-{len(runs)} slurm/sweep.sbatch ..."
    if not task:
        return refuse(f"no SLURM_ARRAY_TASK_ID; {way_out}")
    if not 1 <= int(task) <= len(runs):
        return refuse(f"task {task} of the array has no run; {way_out}")
    sys.stdout.buffer.write(b"".join(os.fsencode(word) + b"\0" for word in runs[int(task) - 1]))
    return 0


def refuse(problem: str) -> int:
    """Print the problem and return the exit code for bad input."""
    print(f"bad input: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
