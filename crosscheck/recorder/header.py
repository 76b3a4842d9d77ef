"""Reads what the header of a trace says of the run: its loss scaler, its ranks and the versions of its packages."""

import platform

import numpy as np
import safetensors
import torch

from crosscheck.trace.format import Scaler


def scaler_of(scaler: torch.amp.GradScaler | None) -> Scaler | None:
    """Return a loss scaler's settings and where it stands; None if there is none or it is switched off."""
    if scaler is None or not scaler.is_enabled():
        return None
    state = scaler.state_dict()
    return Scaler(
        scale=state["scale"],
        growth_factor=state["growth_factor"],
        backoff_factor=state["backoff_factor"],
        growth_interval=state["growth_interval"],
        growth_tracker=state["_growth_tracker"],
    )


def place_of(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Return the rank of this process and the number of ranks; what is not given is asked of torch.distributed.

    Raises ValueError for a rank that a world of this size does not have.
    """
    here, size = 0, 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        here, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    here, size = here if rank is None else rank, size if world_size is None else world_size
    if not 0 <= here < size:
        raise ValueError(f"rank={here}, world_size={size}: accepted are ranks from 0 to world_size - 1")
    return here, size


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a recording depends on."""
    return {
        "torch": torch.__version__,
        "numpy": np.__version__,
        "safetensors": safetensors.__version__,
        "python": platform.python_version(),
    }
