"""Records the steps of a torch optimizer. Never imports JAX.

A *sample* is the elements that are recorded of some steps, and a *reader* copies them out of the optimizer's tensors. It copies
all parameters and state of one dtype and device, a *bucket*, with one operation. What it copies are *values*; those of all
parameters and state at one moment are a *snapshot*, with *digests* of elements that are not in the sample. Two snapshots and the
gradient between them are a *row*. Norms, loss scale and options of a step are its *step record*. Rows of one sample form a
*block*; blocks and step records that are written at once are a *part* of the trace. With each *turn*, about one part, other
elements are sampled. A *slot* is a piece of state, such as `exp_avg`.

    hooks/                      samples/reader.py           step_capture.py      parts/

    before the step ─────────►  gradient, snapshot ──┐
                                                     │
    optimizer.step()                                 ├───►  row ───────────┐
                                                     │                     ├───►  part ───►  file of the trace
    after the step ──────────►  snapshot ────────────┘      step record ───┘

`recorder.py` is the interface, and decides how a recording ends. `samples/` chooses what is copied of a step, `optimizer/` knows
which tensors and options there are, `claims/` reads what the training loop claims, and `parts/` writes what was captured.
"""

from crosscheck.errors import TraceError, UnsupportedOptimizer
from crosscheck.recorder.hooks.winners import Winners
from crosscheck.recorder.recorder import Recorder
from crosscheck.trace.format import Claims, Pass
from crosscheck.trace.writer import passes_on_record

__all__ = ["Claims", "Pass", "Recorder", "TraceError", "UnsupportedOptimizer", "Winners", "passes_on_record"]
