"""Where JAX computes in float64, on the CPU. Never imports torch."""

from collections.abc import Generator
from contextlib import contextmanager

import jax


@contextmanager
def float64() -> Generator[None]:
    """Not jax.config: a library must not change the arithmetic of its user's process. Holds for one thread."""
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        yield
