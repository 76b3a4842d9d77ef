"""Recording the steps of a torch optimizer. Never imports JAX."""

from crosscheck.errors import TraceError, UnsupportedOptimizer
from crosscheck.recorder.recorder import Recorder
from crosscheck.recorder.winners import Winners
from crosscheck.trace.format import Claims, Pass
from crosscheck.trace.writer import passes_on_record

__all__ = ["Claims", "Pass", "Recorder", "TraceError", "UnsupportedOptimizer", "Winners", "passes_on_record"]
