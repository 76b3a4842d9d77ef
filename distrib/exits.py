"""How a small command ends: one exit code for each kind of error, and one line that says it."""

from collections.abc import Callable

from distrib.display import open_streams, print_error
from distrib.errors import EXIT_BAD_INPUT, EXIT_FAULT, BadInput, RunFault
from distrib.files import NEEDS_USER


def run_command(work: Callable[[], int]) -> int:
    """Return the exit code that `work` returns, or that of the error which it raises and which is printed.

    2 is for bad input and for a file that somebody has to mend first, 1 for a fault. An error that nobody foresaw is raised.
    """
    open_streams()
    try:
        return work()
    except BadInput as error:
        print_error(f"bad input: {error}")
        return EXIT_BAD_INPUT
    except RunFault as error:  # PeerLost is one
        print_error(f"fault: {error}")
        return EXIT_FAULT
    except OSError as error:
        needs_user = error.errno in NEEDS_USER
        kind = "bad input" if needs_user else "fault"
        print_error(f"{kind}: {error.filename or 'standard output'}: {error.strerror or error}")
        return EXIT_BAD_INPUT if needs_user else EXIT_FAULT
