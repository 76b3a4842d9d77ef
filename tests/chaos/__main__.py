"""`python -m tests.chaos` trains under random faults and then compares with a run that had none.

The exit code is 0 if the run survived every fault and ended with the same bytes, 1 if a promise was broken, and 2 for bad
arguments.
"""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tests.chaos.rounds import Round, Size
from tests.chaos.world import Violation

_FAULTS = 20  # the default number of faults in a run; make chaos has the same


class _Parser(argparse.ArgumentParser):
    """A parser that reports bad arguments in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"bad input: {message}", file=sys.stderr)
        sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say and return the exit code."""
    given = _parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM cleans up as Ctrl-C does
    folder = Path(tempfile.mkdtemp(prefix="twinstep-chaos-")) if given.folder is None else given.folder.resolve()
    size = Size(given.nodes, given.ranks_per_node)
    end = None if given.minutes is None else time.monotonic() + 60 * given.minutes
    seed, faults = given.seed, given.faults or _FAULTS
    try:
        while True:
            one = Round(seed, faults, size, folder / f"seed-{seed}")
            try:
                one.run()
            except Exception:
                one.keep()
                raise
            finally:
                one.end()
            seed += 1
            if end is None or time.monotonic() > end:
                break
    except Violation as broken:
        print(f"failed: {broken}\nfor a look: {folder / f'seed-{seed}'}")
        again = f"python -m tests.chaos --faults {faults} --seed {seed}"
        print(f"again: {again} --nodes {given.nodes} --ranks-per-node {given.ranks_per_node}")
        return 1
    except KeyboardInterrupt:
        return 130
    if given.folder is None:
        shutil.rmtree(folder)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(prog="python -m tests.chaos", description="Train under random faults.", allow_abbrev=False)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--faults", type=_positive, help=f"number of faults in one run (default {_FAULTS})")
    length.add_argument("--minutes", type=float, help=f"start runs with {_FAULTS} faults each until this time is over")
    parser.add_argument("--seed", type=int, default=0, help="from which kinds, moments and victims are drawn")
    parser.add_argument("--nodes", type=_positive, default=2, help="number of nodes, with one launcher each")
    parser.add_argument("--ranks-per-node", type=_positive, default=1)
    parser.add_argument(
        "--folder",
        type=Path,
        help="an empty or new folder, which is kept; by default a temporary one, kept if a check fails",
    )
    given = parser.parse_args(arguments)
    if given.minutes is not None and not given.minutes > 0:
        parser.error(f"--minutes {given.minutes}: a number above 0 is accepted")
    if given.nodes * given.ranks_per_node not in (2, 4, 8):
        parser.error(
            f"--nodes {given.nodes} --ranks-per-node {given.ranks_per_node}: 2, 4 or 8 ranks together are accepted "
            "(they share batches of 16)"
        )
    if (
        given.folder is not None
        and given.folder.exists()
        and (not given.folder.is_dir() or any(given.folder.iterdir()))
    ):
        parser.error(f"--folder {given.folder}: an empty or a new folder is accepted")
    return given


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number above 0 is accepted")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
