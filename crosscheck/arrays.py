"""Names of NumPy's arrays, for the modules that annotate many of them."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Bits = NDArray[np.bool_]
