"""Imports JAX for the CPU, with the garbage collector off, which saves a quarter of the time."""

import gc
import os
import sys
from importlib import import_module

_LAST = "crosscheck.replayer"


def import_jax() -> None:
    """Import JAX for the CPU. Raises ModuleNotFoundError, which names JAX, whatever else of the extra is missing too."""
    # All of it is float64 on the CPU; JAX would take most of a GPU's memory at once.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if _LAST in sys.modules:
        return  # what is frozen is never freed: a second time it would be what an earlier command left
    collects = gc.isenabled()
    gc.disable()  # going through JAX's modules takes a quarter of the time to import it
    try:
        import_module("jax")
        import_module(_LAST)
    finally:
        gc.freeze()
        if collects:
            gc.enable()
