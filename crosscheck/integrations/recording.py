"""The recording of one optimizer in another library's loop. On all ranks but the first it records nothing."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from crosscheck.errors import TraceError
from crosscheck.recorder import Claims, Recorder
from crosscheck.recorder.claims.scheduler import unwrap_scheduler
from crosscheck.recorder.optimizer.wrappers import unwrap
from crosscheck.recorder.warning import warn


class Recording:
    """What an integration returns: it holds the recorder, or nothing on ranks that do not record, and closes it."""

    def __init__(self, recorder: Recorder | None, detach: Callable[[], None] | None = None) -> None:
        """`detach` takes out of the loop what the integration put into it."""
        self.recorder, self._detach = recorder, detach

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def after_backward(self) -> None:
        """Record the gradients as `backward` left them, where this rank records."""
        if self.recorder is not None:
            self.recorder.after_backward()

    def flush(self) -> None:
        """Write all recorded steps to the disk, and go on recording."""
        if self.recorder is not None:
            self.recorder.flush()

    def close(self) -> None:
        """Write the rest of the record, mark its end, and detach from the loop. A second call does nothing."""
        if self._detach is not None:
            self._detach()
        if self.recorder is not None:
            self.recorder.close()


def attach(
    optimizer: Any, path: str | Path, found: Mapping[str, Any], given: Mapping[str, Any], *, applied: int | None = None
) -> Recorder:
    """Attach a recorder with what the loop's objects say, except where the user says otherwise.

    Args:
        optimizer: The optimizer, wrapped or not.
        path: The folder of the trace.
        found: Arguments of `Recorder` that the library's own objects gave. A scheduler among them that no claim can be read
            from is left out, with a warning.
        given: Those of the user, which count more.
        applied: Updates applied before, where the library tells.
    """
    arguments = dict(found) | dict(given)
    if given.get("claims") is not None:  # what is written down counts more than what was found
        written = given["claims"].model_fields_set
        arguments = {k: v for k, v in arguments.items() if k in given or k not in _claimed_by(written)}
    scheduler = arguments.get("scheduler")
    if scheduler is not None and "scheduler" not in given:
        try:
            unwrap_scheduler(scheduler, unwrap(optimizer))
        except TraceError as error:
            warn(f"crosscheck: the learning rate is not checked: {error}")
            arguments |= {"scheduler": None, "scheduler_every": 1}
    claims: Claims = arguments.pop("claims", None) or Claims()
    if applied is not None and "applied" not in claims.model_fields_set:
        claims = claims.model_copy(update={"applied": applied})
    return Recorder(optimizer, path, claims=claims, **arguments)


def _claimed_by(fields: set[str]) -> set[str]:
    arguments = {"schedule": {"scheduler", "scheduler_every"}, "clip_norm": {"clip_norm"}, "clip_value": {"clip_value"}}
    return {name for field in fields for name in arguments.get(field, set[str]())}
