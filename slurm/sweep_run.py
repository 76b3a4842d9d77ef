"""`python -m slurm.sweep_run FILE TASK [--section.key VALUE ...]` prints the words of the TASK-th run of a sweep, each ended by a
NUL.

The overrides hold for all runs, and are put before the run's own. The exit code is 2 for bad input.
"""

import os
import sys
from collections.abc import Sequence

from distrib.errors import EXIT_DONE, BadInput
from distrib.exits import run_command
from distrib.sweep.lines import OUTPUT_DIR, given_folder, read, refuse_shared, with_overrides


def main(name: str, task: str, *overrides: str) -> int:
    """Print the run of this task and return the exit code."""
    return run_command(lambda: _main(name, task, overrides))


def _main(name: str, task: str, overrides: Sequence[str]) -> int:
    runs = read(name)
    words = {run.number: with_overrides(run, overrides) for run in runs if not run.problem}
    folders = {number: given_folder(own) for number, own in words.items()}
    refuse_shared({number: folder for number, folder in folders.items() if folder is not None})
    way_out = f"{name!r} has {len(runs)} run(s): sbatch --array=1-{len(runs)} slurm/sweep.sbatch ..."
    if not task:
        raise BadInput(f"no SLURM_ARRAY_TASK_ID; {way_out}")
    if not (task.isascii() and task.isdecimal() and 1 <= int(task[:18]) <= len(runs)):
        raise BadInput(f"task {task} of the array has no run; {way_out}")
    run = runs[int(task) - 1]
    if run.problem:
        raise BadInput(f"{name!r}, {run.problem}")
    # As in a sweep on one machine, a folder that a recipe names is not for each of the runs with this recipe.
    own = words[run.number] if folders[run.number] is not None else (*words[run.number], OUTPUT_DIR, "none")
    sys.stdout.buffer.write(b"".join(os.fsencode(word) + b"\0" for word in own))
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
