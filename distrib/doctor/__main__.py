"""Print what this machine has for training, and what would make a run fail.

Start it as you would start training, also under accelerate launch or in a SLURM job: then the processes meet, and add up a
gradient. Exit codes: 0 a run can start, 1 it would fail (the table says how to mend that), 2 bad input.
"""

import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from distrib.arguments import Parser
from distrib.doctor import software
from distrib.doctor.finding import Finding, fails, table
from distrib.errors import EXIT_DONE, EXIT_FAULT, BadInput, PeerLost
from distrib.exits import run_command
from distrib.job.status import Status
from distrib.text import harmless

_MEETING = 60  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Look at everything, print what was found, and return the exit code."""
    return run_command(lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    parser = Parser(prog="twinstep doctor", description=__doc__)
    parser.add_argument(
        "--dir", type=Path, default=Path("runs"), help="folder in which runs will be written (default: %(default)s)"
    )
    folder: Path = parser.parse_args(arguments).dir
    found, met = list(software.look()), False
    if all(each.state != "fails" for each in found):
        met, beyond = _beyond_software(folder)
        found += beyond
    status = Status()
    # If the processes did not meet, rank 0 knows nothing of the other machines, so that each of these speaks for itself.
    if status.reports or (status.reports_for_machine and not met):
        print(harmless(table(found)))
    return EXIT_FAULT if any(each.state == "fails" for each in found) else EXIT_DONE


def _beyond_software(folder: Path) -> tuple[bool, list[Finding]]:
    """Let the processes meet, look at what each of them has, and return whether they met, and what is worth saying."""
    from distrib.job import environment  # all that needs torch, which may be missing
    from distrib.ranks import collectives, world

    try:
        environment.check()
        world.check(None)
        accelerator = world.start(None, deterministic=False, timeout=_MEETING)
    except (BadInput, PeerLost) as error:
        return False, [fails("world", str(error), "start it again when that is mended")]
    try:
        from distrib.doctor import devices, disk, processes

        found = [*processes.look(accelerator), *devices.look(accelerator.device)]
        if accelerator.is_local_main_process:
            found += disk.look(folder)
        everyone = collectives.all_gather_json(accelerator, [socket.gethostname(), [asdict(each) for each in found]])
    finally:
        accelerator.end_training()
    return True, list(_together([(host, [Finding(**each) for each in its]) for host, its in everyone]))


def _together(everyone: Sequence[tuple[str, Sequence[Finding]]]) -> Iterator[Finding]:
    """Yield what rank 0 found, and of the others what is not ok and was not said yet."""
    (here, first), *others = everyone
    yield from first
    said = set(first)
    for host, found in others:
        for each in found:
            if each.state != "ok" and each not in said:
                said.add(each)
                yield each if host == here else replace(each, host=host)


if __name__ == "__main__":
    sys.exit(main())
