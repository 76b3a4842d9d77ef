"""`python -m slurm.sweep_run FILE TASK [--section.key VALUE ...]` prints the words of the TASK-th run of a sweep, each ended by a NUL.

The overrides hold for all runs, and are put before the run's own. The exit code is 2 for bad input.
"""

import os
import sys

from distrib.errors import BadInput
from distrib.sweep.lines import given_folder, read, refuse_shared, with_overrides


def main(name: str, task: str, *overrides: str) -> int:
    """Print the run of this task and return the exit code."""
    try:
        runs = read(name)
        words = {run.number: with_overrides(run, overrides) for run in runs if not run.problem}
        folders = {number: given_folder(own) for number, own in words.items()}
        refuse_shared({number: folder for number, folder in folders.items() if folder is not None})
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
    sys.stdout.buffer.write(b"".join(os.fsencode(word) + b"\0" for word in words[run.number]))
    return 0


def refuse(problem: str) -> int:
    """Print the problem and return the exit code for bad input."""
    print(f"bad input: {problem}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
