"""Defines the exceptions that end a run: BadInput, which the user must mend, and RunFault, which came up in the run itself."""

EXIT_DONE = 0
EXIT_FAULT = 1
EXIT_BAD_INPUT = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: try again later, here from the checkpoint just written
EXIT_INSISTED = 130  # a second Ctrl-C, as shells number it


class BadInput(Exception):
    """Something the user gave (a key, a file, a folder, a disk) cannot be used.

    The message is one paragraph that names the key, the value, what is accepted and the fix.
    `python -m distrib.train` prints it without a traceback and exits with 2.
    """


class RunFault(Exception):
    """The run itself failed (a loss that is not finite, a peer that died).

    The message is one paragraph for the person who finds the job dead; exit code 1.
    """


class PeerLost(RunFault):
    """Another rank does not answer any more."""

    def __init__(self, message: str, *, reported_here: bool) -> None:
        """`reported_here` says whether this is the one of the ranks left that is to report it."""
        super().__init__(message)
        self.reported_here = reported_here
