"""`python -m slurm.sweep_run FILE TASK` prints the words of the TASK-th run of a sweep, each ended by a NUL.

The exit code is 2 for bad input.
"""

import os
import sys

from distrib.errors import BadInput
from distrib.sweep.lines import read


def main(name: str, task: str) -> int:
    """Print the run of this task and return the exit code."""
    try:
        runs = read(name)
    except BadInput as error:
        return refuse(str(error))
    way_out = f"{name!r} has {len(runs)} run(s): sbatch --array=1-{len(runs)} slurm/sweep.sbatch ..."
    if not task:
        return refuse(f"no SLURM_ARRAY_TASK_ID; {way_out}")
    if not (task.isascii() and task.isdecimal() and 1 <= int(task[:18]) <= len(runs)):
        return refuse(f"task {task} of the array has no run; {way_out}")
    run = runs[int(task) - 1]
    if run.problem:
        return refuse(f"{name!r}, {run.problem}")
    sys.stdout.buffer.write(b"".join(os.fsencode(word) + b"\0" for word in run.words))
    return 0


def refuse(problem: str) -> int:
    """Print the problem and return the exit code for bad input."""
    print(f"bad input: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
