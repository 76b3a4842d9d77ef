"""Recording the steps of a torch optimizer. Never imports JAX.

A *sample* is the elements that are recorded of some steps, and a *reader* copies them out of the optimizer's tensors. It copies
all parameters and state of one dtype and device, a *bucket*, with one operation. What it copies are *values*; those of all
parameters and state at one moment are a *snapshot*, with *digests* of elements that are not in the sample. Two snapshots and the
gradient between them are a *row*. Norms, loss scale and options of a step are its *step record*. Rows of one sample form a
*block*; blocks and step records that are written at once are a *part* of the trace. With each *turn*, about one part, other
elements are sampled. A *slot* is a piece of state, such as `exp_avg`.

    hooks.py                    sample_reader.py            step_capture.py      pending.py, journal.py

    before the step ─────────►  gradient, snapshot ──┐
                                                     │
    optimizer.step()                                 ├───►  row ───────────┐
                                                     │                     ├───►  part ───►  file of the trace
    after the step ──────────►  snapshot ────────────┘      step record ───┘

`sampler.py` chooses the samples, `columns.py` the elements of each tensor, and `tracked_parameters.py` knows which tensors there
are. `row_blocks.py` lays the rows of a part out tensor by tensor. `recorder.py` is the interface, and decides how a recording ends.
"""

from crosscheck.errors import TraceError, UnsupportedOptimizer
from crosscheck.recorder.recorder import Recorder
from crosscheck.recorder.winners import Winners
from crosscheck.trace.format import Claims, Pass
from crosscheck.trace.writer import passes_on_record

__all__ = ["Claims", "Pass", "Recorder", "TraceError", "UnsupportedOptimizer", "Winners", "passes_on_record"]
