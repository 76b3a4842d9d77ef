"""Recording the steps of a torch optimizer. Never imports JAX."""

from crosscheck.errors import TraceError, UnsupportedOptimizer
from crosscheck.recorder.recorder import Recorder
from crosscheck.trace.format import Claims

__all__ = ["Claims", "Recorder", "TraceError", "UnsupportedOptimizer"]
