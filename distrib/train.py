"""`python -m distrib.train RECIPE.toml [--section.key VALUE …]`, alone or under a launcher.

In Python this module is what `from distrib import train` gives, and calling it trains: `distrib.api.train` says how.

Exit codes: 0 done, 1 fault, 2 bad input, 75 stopped on request, 130 left at once; after 75 the same command continues.
"""

import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from crosscheck.streams import open_streams
from distrib.errors import EXIT_INSISTED
from distrib.exits import lacking
from distrib.job.outcome import Outcome, outcome_of
from distrib.job.status import Status
from distrib.job.stop import BEFORE_THE_RUN, Stopped, StopRequest
from distrib.text import print_error

if TYPE_CHECKING:
    from distrib.inference.saved_run import SavedRun
    from distrib.training.recipe import RunConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and return the exit code. The process should then end: it ignores the signals that ask a run to stop."""
    open_streams()
    status = Status()

    def leave(code: int, reason: str) -> None:
        if code == EXIT_INSISTED:
            message = "left at once: earlier checkpoints are kept, and the same command continues from the newest one"
            outcome = Outcome(code=code, message=message, reports=status.reports)
        else:
            stop = Stopped(reason, BEFORE_THE_RUN, None)
            outcome = outcome_of(stop, status, reports=status.reports)
        try:
            outcome.write(status)
            if outcome.reports:
                print_error(f"\n{outcome.message}")
        finally:
            os._exit(code)

    with StopRequest(leave) as request:
        request.ignore_afterwards()
        try:
            command = _import_command()  # here, because a request may come in the seconds that torch takes
        except ModuleNotFoundError as error:
            typed = "python -m distrib.train" if __name__ == "__main__" else "twinstep train"
            outcome = outcome_of(lacking(typed, "train", error), status, reports=status.reports)
            outcome.write(status)
            outcome.show()
            return outcome.code
        return command.main(sys.argv[1:] if arguments is None else arguments, status, request)


def _import_command() -> ModuleType:
    """Import what trains, with all of torch behind it, without looking again and again for garbage among what stays."""
    if "distrib.command" not in sys.modules:  # what is frozen is never freed: a second time it would be what a run left
        gc.disable()
        try:
            import_module("distrib.command")
        finally:
            gc.freeze()
            gc.enable()
    return sys.modules["distrib.command"]


class _Callable(ModuleType):
    """This module, which Python's import puts under the name distrib.train whatever else is called so."""

    def __call__(self, config: "RunConfig") -> "SavedRun":
        """Train what `config` says, in this process, and return the run; raise where the command ends with an exit code."""
        from distrib.api import train

        return train(config)


sys.modules[__name__].__class__ = _Callable

if __name__ == "__main__":
    sys.exit(main())
