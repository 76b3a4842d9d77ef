"""Recording the steps of a torch optimizer. Never imports JAX."""

from crosscheck.errors import TraceError, UnsupportedOptimizer
from crosscheck.recorder.recorder import Recorder

__all__ = ["Recorder", "TraceError", "UnsupportedOptimizer"]
