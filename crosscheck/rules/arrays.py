"""How the arrays of the rules and of the criterion are annotated: dtype, library and axes, as `Float64[Array, "rows width"]`.

The axes have the same names everywhere:

    rows      of a batch: one step of one tensor each
    width     elements of a row
    outputs   what a rule computes: the thing that moves, then its elementwise slots

Nothing between the quotes means a scalar, and a 1 an axis of length one. What `jax.vmap` maps over the rows sees one
row at a time, so its arrays have no axis `rows`. The tests check what functions and dataclasses are given and return
in the first case of each test (tests/conftest.py); a replay checks nothing.
"""

import jax
import numpy as np
from jaxtyping import Float64

Array = jax.Array | np.ndarray
"""Of NumPy where rows are gathered and summed up, of JAX in what is compiled."""
Number = float | Float64[jax.Array, ""]
"""A hyperparameter: as an option gives it, or of one row in what is compiled."""
