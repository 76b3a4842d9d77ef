"""Runs what is typed behind `twinstep train`: it prints help, or makes one start of a run from a recipe with overrides."""

import time
from collections.abc import Sequence
from dataclasses import replace

from distrib.config.help import help_text
from distrib.config.load import resolve
from distrib.dry_run.rehearsal import rehearse
from distrib.errors import EXIT_DONE, BadInput, PeerLost
from distrib.exits import show_help
from distrib.job import environment
from distrib.job.outcome import outcome_of
from distrib.job.status import Status
from distrib.job.stop import StopRequest
from distrib.launch_files import find_recipe
from distrib.start import begin
from distrib.training.recipe import RunConfig

_DRY_RUN = "--dry-run"
_LET_RANK_0_REPORT = 10.0  # seconds


def main(arguments: Sequence[str], status: Status, request: StopRequest) -> int:
    """Run and return the exit code; `request` is heard from now on."""
    try:
        if (asked := _asked_for_help(arguments)) is not None:
            text = help_text(RunConfig, asked)
            return show_help(text) if status.reports else EXIT_DONE
        dry, arguments = _DRY_RUN in arguments, [word for word in arguments if word != _DRY_RUN]
        if not arguments:
            raise BadInput("no recipe: give one, such as quickstart, or ask for --help")
        environment.check()
        status.check()
        recipe = find_recipe(arguments[0])
        resolved = resolve(RunConfig, recipe, arguments[1:])
        start = begin(resolved, status, request, name=recipe.stem, arguments=arguments)
    except (BadInput, OSError, PeerLost) as error:
        return _refuse(error, status)
    outcome = start.run(
        (lambda: rehearse(resolved, start.accelerator, start.display, request, start.name)) if dry else None
    )
    outcome.show()
    return outcome.code


def _asked_for_help(arguments: Sequence[str]) -> str | None:
    """Return the section that is asked for by `--help SECTION`, the empty text for a bare --help, and None without it."""
    for number, word in enumerate(arguments):
        if word in ("-h", "--help"):
            return next((after for after in arguments[number + 1 : number + 2] if not after.startswith("-")), "")
    return None


def _refuse(error: BadInput | OSError | PeerLost, status: Status) -> int:
    """End a start by an error before there is a process group, and return the exit code.

    Rank 0 reports it. What only another machine has is reported by that machine's first rank.
    """
    outcome = outcome_of(error, status, reports=status.reports)
    if not outcome.foreseen:
        raise error
    if not status.reports:
        # A launcher kills all ranks when the first one ends, and ranks start seconds apart.
        time.sleep(_LET_RANK_0_REPORT)
        outcome = replace(outcome, reports=status.reports_for_machine and not status.is_written())
    outcome.write(status)
    outcome.show()
    return outcome.code
