"""Where JAX computes in float64, on the CPU. Never imports torch."""

from collections.abc import Generator
from contextlib import contextmanager

import jax


@contextmanager
def float64() -> Generator[None]:
    """Let JAX compute in float64 on the CPU, in this thread.

    `jax.config` would change the arithmetic of the user's whole process, which a library must not do.
    """
    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        yield
