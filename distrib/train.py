"""`python -m distrib.train RECIPE.toml [--section.key VALUE …]`, alone or under a launcher.

Exit codes: 0 done, 1 fault, 2 bad input, 75 stopped on request, 130 left at once; after 75 the same command continues.
"""

import os
import sys
from collections.abc import Sequence

from distrib.display import print_error
from distrib.errors import EXIT_INSISTED
from distrib.job.status import Status
from distrib.job.stop import StopRequest, in_words


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and return the exit code."""
    status = Status()

    def leave(code: int, reason: str) -> None:
        said = (
            f"{in_words(reason)} before the run began; the same command starts it"
            if code != EXIT_INSISTED
            else "left at once: earlier checkpoints are kept, and the same command continues from the newest one"
        )
        try:
            if status.reports:
                status.write(code, said, retry=code != EXIT_INSISTED)
                print_error(f"\n{said}")
        finally:
            os._exit(code)

    with StopRequest(leave) as request:
        from distrib import start  # torch takes seconds to import, and a request may come in them

        return start.main(sys.argv[1:] if arguments is None else arguments, status, request)


if __name__ == "__main__":
    sys.exit(main())
