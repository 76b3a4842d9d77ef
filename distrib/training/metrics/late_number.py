"""Reads a number of the device when the device has it anyway."""

import math

import torch
from torch import Tensor


class LateNumber:
    """A number that is copied from its device in the background: reading it at once would stall a GPU's queue."""

    def __init__(self, value: Tensor) -> None:
        """`value` has one element."""
        self._host, self._copied = value.detach(), None
        if value.is_cuda:
            self._host = torch.empty((), dtype=value.dtype, pin_memory=True)
            self._host.copy_(value.detach(), non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> float | None:
        """Return the number, or None if it is not finite, or if its device has failed. Waits for its copy."""
        try:
            if self._copied is not None:
                self._copied.synchronize()
            number = float(self._host)
        except (
            torch.AcceleratorError
        ):  # every later call to the device raises it again, and files are closed before that
            return None
        return number if math.isfinite(number) else None
