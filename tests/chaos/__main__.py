"""`python -m tests.chaos`: train under random faults, then compare with a run that had none.

Exit codes: 0 every fault survived and the same bytes at the end, 1 a promise broken, 2 bad arguments.
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

_FAULTS = 20  # in a run, if nothing else is said; make chaos says as many


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"bad input: {message}", file=sys.stderr)
        sys.exit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and return the exit code."""
    given = _parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleaned up after, as after Ctrl-C
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
    length.add_argument("--faults", type=_positive, help=f"faults in one run ({_FAULTS} if nothing is said)")
    length.add_argument("--minutes", type=float, help=f"runs with {_FAULTS} faults each until this time is over")
    parser.add_argument("--seed", type=int, default=0, help="kinds, moments and victims follow from it")
    parser.add_argument("--nodes", type=_positive, default=2, help="launchers")
    parser.add_argument("--ranks-per-node", type=_positive, default=1)
    parser.add_argument("--folder", type=Path, help="kept; empty or new. None: a temporary one, kept if a check fails")
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
