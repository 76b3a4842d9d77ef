"""Recording the steps of a torch optimizer. Never imports JAX."""

from crosscheck.errors import TraceError, UnsupportedOptimizer
from crosscheck.recorder.recorder import Recorder
from crosscheck.recorder.winners import Winners
from crosscheck.trace.format import Claims, Pass

__all__ = ["Claims", "Pass", "Recorder", "TraceError", "UnsupportedOptimizer", "Winners"]
