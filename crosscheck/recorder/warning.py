"""Warnings that point at the user's own code, and that never end a training."""

import logging
import warnings
from inspect import currentframe
from traceback import walk_stack
from types import FrameType

_log = logging.getLogger(__name__)
_NOT_THE_USERS = ("crosscheck", "torch")


def warn(message: str) -> None:
    """Warn at the line of the user's code from which calls led to here, through this package and torch.

    Where warnings are turned into exceptions (`python -W error`) the message is logged: it tells of the recording, and who
    wants the training to end says strict=True.
    """
    frames = [frame for frame, _ in walk_stack(currentframe())]
    outside = (frame for frame in frames if _module(frame).partition(".")[0] not in _NOT_THE_USERS)
    frame = next(outside, frames[-1])
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    try:
        warnings.warn_explicit(message, UserWarning, frame.f_code.co_filename, frame.f_lineno, _module(frame), registry)
    except UserWarning:
        _log.warning("%s", message)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
