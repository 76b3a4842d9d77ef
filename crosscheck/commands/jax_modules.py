"""JAX, imported as fast as it can be."""

import gc
import os
from importlib import import_module


def import_jax() -> None:
    """Import JAX for the CPU. Raises ModuleNotFoundError, which names JAX, whatever else of the extra is missing too."""
    # All of it is float64 on the CPU; JAX would take most of a GPU's memory at once.
    os.environ["JAX_PLATFORMS"] = "cpu"
    gc.disable()  # going through JAX's modules takes a quarter of the time to import it
    try:
        import_module("jax")
        import_module("crosscheck.replayer")
    finally:
        gc.freeze()
        gc.enable()
