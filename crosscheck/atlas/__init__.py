"""torch.optim against Optax over every legal combination of flags, as a table.

Two questions. Free-running in float64 for forty steps: does the stock Optax alias follow torch, does our
composition? And step by step, through the recorder and the replay: how large is eta at most, for each
implementation and dtype, over four regimes of gradients at once?
"""

from crosscheck.atlas.as_text import text
from crosscheck.atlas.drawing import DTYPES, IMPLEMENTATIONS, combinations, draw
from crosscheck.atlas.table import Atlas, Cell, Combination, Row

__all__ = ["DTYPES", "IMPLEMENTATIONS", "Atlas", "Cell", "Combination", "Row", "combinations", "draw", "text"]
