"""Ends a command, with one exit code for each kind of error and one line that says it."""

import sys
from collections.abc import Callable

from crosscheck.streams import discard_output, open_streams
from distrib.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAULT, BadInput, RunFault
from distrib.files import NEEDS_USER
from distrib.text import print_error, print_help

_OURS = ("twinstep", "distrib", "crosscheck")


def run_command(work: Callable[[], int]) -> int:
    """Return the exit code that `work` returns, or that of the error which it raises and which is printed.

    2 is for bad input and for a file that somebody has to mend first, 1 for a fault. An error that nobody foresaw is raised.
    """
    open_streams()
    try:
        code = work()
        sys.stdout.flush()  # a reader that has gone or a full disk shows here, where it still has an exit code
        return code
    except BadInput as error:
        print_error(f"bad input: {error}")
        return EXIT_BAD_INPUT
    except RunFault as error:  # PeerLost is one
        print_error(f"fault: {error}")
        return EXIT_FAULT
    except OSError as error:
        if error.filename is None:
            discard_output()
        needs_user = error.errno in NEEDS_USER
        kind = "bad input" if needs_user else "fault"
        print_error(f"{kind}: {error.filename or 'standard output'}: {error.strerror or error}")
        return EXIT_BAD_INPUT if needs_user else EXIT_FAULT


def show_help(text: str) -> int:
    """Print the help of a command, or what is as short, and return the exit code."""

    def work() -> int:
        print_help(text)
        return EXIT_DONE

    return run_command(work)


def lacking(what: str, extra: str, error: ModuleNotFoundError) -> BadInput:
    """Return what refuses a command that needs a package which is not installed, and which this extra of the project brings.

    Raises the error itself if it is of a module of the project: no extra brings that.
    """
    package = (error.name or "").partition(".")[0]
    if package in ("", *_OURS):
        raise error
    return BadInput(f"{what} needs {package}, which is not installed: pip install '.[{extra}]' in a clone of Twinstep")
