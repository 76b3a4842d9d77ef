"""Recording the steps of a torch optimizer. Never imports JAX."""

from crosscheck.recorder.recorder import Recorder

__all__ = ["Recorder"]
