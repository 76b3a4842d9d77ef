"""Checks what a launcher or a batch system says in the environment, once, before anything relies on it."""

import os
from collections.abc import Mapping

from distrib.errors import BadInput

_MOST = 10**6
_DIGITS = 20  # zeros in front may be some of them; Python refuses to read thousands
_NUMBERS: Mapping[str, tuple[int, int]] = {
    "WORLD_SIZE": (1, _MOST),
    "RANK": (0, _MOST),
    "LOCAL_WORLD_SIZE": (1, _MOST),
    "LOCAL_RANK": (0, _MOST),
    "MASTER_PORT": (0, 65535),
    "TORCHELASTIC_RESTART_COUNT": (0, _MOST),
    "TORCHELASTIC_MAX_RESTARTS": (0, _MOST),
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": (0, _MOST),
    "OMP_NUM_THREADS": (1, _MOST),
    "SLURM_CPUS_PER_TASK": (1, _MOST),
    "SLURM_GPUS_ON_NODE": (0, _MOST),
    "SLURM_STEP_NUM_TASKS": (1, _MOST),
}
"""The least and the largest value of each variable that holds a whole number."""
_OF_EACH_RANK = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What every one of several processes is told."""


def check(environment: Mapping[str, str] = os.environ) -> None:
    """Raise BadInput for a number that is none, and for a process that does not know which of several it is."""
    for name, (least, most) in _NUMBERS.items():
        value = environment.get(name)
        digits = value is not None and value.isascii() and value.isdecimal() and len(value) < _DIGITS
        if value is not None and not (digits and least <= int(value) <= most):
            raise BadInput(
                f"the environment says {name} = {value[:100]!r}, which is not a whole number from {least} to {most}: start the "
                "trainer with accelerate launch, or unset the variable"
            )
    for one, all_of_them in (("RANK", "WORLD_SIZE"), ("LOCAL_RANK", "LOCAL_WORLD_SIZE")):
        number, count = int(environment.get(one, "0")), int(environment.get(all_of_them, "1"))
        if number >= count and all_of_them in environment:
            raise BadInput(
                f"the environment says {one} = {number} and {all_of_them} = {count}, but ranks count from 0: start the trainer "
                "with accelerate launch"
            )
    # Accelerate takes even a LOCAL_RANK of 0 for that of one among several.
    for reason, alone in (("LOCAL_RANK", -1), ("WORLD_SIZE", 1), ("RANK", 0)):
        several = int(environment.get(reason, alone)) > alone
        missing = [name for name in _OF_EACH_RANK if several and not environment.get(name)]
        if missing:
            raise BadInput(
                f"the environment says {reason} = {environment[reason]}, and nothing of {', '.join(missing)}: start the trainer "
                "with accelerate launch, or unset the variable"
            )
