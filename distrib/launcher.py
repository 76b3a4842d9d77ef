"""`python -m distrib.launcher …` takes the place of `accelerate launch …`: it is the same launcher, but exits with the code of
the run.

Accelerate's own command turns every exit code of a rank into 1, and shows twenty lines of its own after a Ctrl-C or bad input.
This one starts the same ranks in the same way, lets them have the last word, and exits with the code of the run: 0 done, 1 fault,
2 bad input, 75 stopped on request, and 128 and the number of the signal where one killed a rank that nobody could speak for.

A signal that asks to stop is passed on to the ranks, for whose end the launcher waits; before there are any it leaves at once.
"""

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

from distrib.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAULT, BadInput
from distrib.exits import run_command, show_help
from distrib.job.outcome import outcome_of
from distrib.job.status import PATH, Status, read_status
from distrib.job.stop import BEFORE_THE_RUN, Stopped, signals_heard
from distrib.launch_files import find_launch_file
from distrib.layout import STATUS
from distrib.text import print_error

_SIGNALLED = 128  # and the number of the signal, as shells have it
_NUMBER, _TEXT = (int, "a whole number"), (str, "text (in quotes)")
_TYPES = {
    **dict.fromkeys(("num_processes", "num_machines", "machine_rank", "main_process_port"), _NUMBER),
    **dict.fromkeys(("gpu_ids", "main_process_ip", "mixed_precision"), _TEXT),
}
"""What the launcher computes with, by the keys of a launch file."""


USAGE = """\
usage: twinstep launch [OPTION ...] -m distrib.train RECIPE [--KEY VALUE ...]

Takes the options of accelerate launch, all of which its own --help lists.
These are often used:
  --config_file FILE   a launch file, or a name of the project's, as cpu-2
  --num_processes N    ranks on all machines together
  --num_machines N     machines
  --machine_rank N     which of the machines this is, from 0
  --main_process_ip ADDRESS, --main_process_port PORT
                       where the ranks meet
  --mixed_precision MODE
                       no, fp16 or bf16
  --max_restarts N     start all ranks again if one is lost, at most N times

Exits with 0 done, 1 fault, 2 bad input, 75 stopped on request.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Launch, wait for all ranks, and return the exit code of the run.

    The process should then end: it ignores signals that ask it to.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["-h"], ["--help"]):
        return show_help(USAGE)
    if not given:
        print_error(USAGE.rstrip())
        return EXIT_BAD_INPUT
    # The launcher's default, which it would announce; the trainer takes all cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # The agent of several ranks dies of SIGUSR1, and leaves them behind, unless it is told to pass it on.
    os.environ.setdefault("PET_SIGNALS_TO_HANDLE", ",".join(each.name for each in (*signals_heard(), signal.SIGQUIT)))
    with tempfile.TemporaryDirectory(prefix="twinstep-") as place, _passing_on(place):
        os.environ.setdefault(PATH, str(Path(place) / STATUS))
        return run_command(lambda: _to_its_end(given, Path(os.environ[PATH])))


def _to_its_end(arguments: Sequence[str], status: Path) -> int:
    """Launch, and return the exit code of the run.

    Raises BadInput, and OSError where the status of an earlier launch cannot be removed.
    """
    if status.is_file():
        status.unlink()
    return _of_the_run(status, _launch(arguments))


@contextmanager
def _passing_on(place: str) -> Generator[None]:
    """Pass signals that ask to stop on to the rank. While there is none yet, leave at once, and remove the folder `place` before.

    One rank is a child to which only a terminal would send them. Several have an agent, which puts a handler of its own in this
    one's place.
    Once the run has said how it ended, signals change nothing any more; they are ignored to the end of the process.
    """

    def pass_on(number: int, _frame: object) -> None:
        ranks = [child for child in psutil.Process().children() if _runs_python(child)]
        for rank in ranks:
            with contextlib.suppress(psutil.NoSuchProcess):
                rank.send_signal(number)
        if not ranks and not Status().is_written():
            code = _stopped(number, BEFORE_THE_RUN)
            shutil.rmtree(place, ignore_errors=True)
            os._exit(code)  # an exception would become a traceback of whatever is being imported

    heard = signals_heard()
    for number in heard:
        signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number in heard:
            signal.signal(number, signal.SIG_IGN)


def _runs_python(child: psutil.Process) -> bool:
    """Return whether a child can be a rank: while torch is imported, there are children that ask the system something."""
    try:
        return child.cmdline()[:1] == [sys.executable]
    except psutil.Error:  # it has ended
        return False


def _stopped(number: int, where: str) -> int:
    """Say, and write into the status, that this signal stopped the run, and `where` it stands. Return the exit code."""
    status = Status()
    outcome = outcome_of(Stopped(signal.Signals(number).name, where, None), status, reports=True)
    outcome.write(status)
    print_error(f"\n{outcome.message}")
    return outcome.code


def _launch(arguments: Sequence[str]) -> int:
    """Return what the launcher knows of how the ranks ended. Raises BadInput."""
    accelerates: Any = import_module("accelerate.commands.launch")  # this takes seconds
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    import_module("torch.distributed.run")  # with all that logs, each logger with a level of its own
    for name in logging.root.manager.loggerDict:
        # It reports each rank that did not exit with 0, and each signal.
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        options = accelerates.launch_command_parser().parse_args(arguments)
        if options.config_file is not None:
            options.config_file = str(find_launch_file(options.config_file))
            _check(options.config_file)
        accelerates.launch_command(options)
    except subprocess.CalledProcessError as error:  # of one rank
        return error.returncode if error.returncode > 0 else _SIGNALLED - error.returncode
    except ChildFailedError as error:  # of several
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else _SIGNALLED - failure.exitcode
    except SignalException as error:
        return _SIGNALLED + error.sigval
    except ValueError as error:  # options, or a launch file, that do not go together; ranks are processes of their own
        if "--debug" in arguments:
            raise
        raise BadInput(
            f"the launcher refuses its options: {' '.join(str(error).split())} (--debug shows where in its code)"
        ) from error
    except SystemExit as error:  # bad arguments, of which argparse has spoken, or --quiet
        return error.code if isinstance(error.code, int) else EXIT_FAULT
    return EXIT_DONE


def _check(path: str) -> None:
    """Raise BadInput if this is no launch file."""
    config_args: Any = import_module("accelerate.commands.config.config_args")
    wanted = "a launch file is YAML as `accelerate config` writes it; twinstep --path cpu-2 says where one is"
    try:
        config = config_args.load_config_from_file(path)
    except Exception as error:  # whatever its readers make of any file
        said = " ".join(str(error).split())[:300]
        raise BadInput(f"--config_file {path} cannot be used ({type(error).__name__}: {said}): {wanted}") from None
    for key, (kind, name) in _TYPES.items():
        value = getattr(config, key, None)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise BadInput(f"--config_file {path}: {key} = {value!r}: it must be {name}; {wanted}")


def _of_the_run(status: Path, code: int) -> int:
    """Return the exit code that rank 0 wrote, if the launch ended badly: a request to stop looks like a failure to a launcher."""
    if code == EXIT_DONE:
        return code
    said = read_status(status).get("exit_code")
    if isinstance(said, int) and 0 < said < 256:
        return said
    # The signal came while a rank was just starting, or the agent lost patience with the ranks.
    if code - _SIGNALLED in signals_heard():
        return _stopped(code - _SIGNALLED, "before a rank could say where it stands; the same command goes on")
    return code


if __name__ == "__main__":
    sys.exit(main())
