"""`python -m distrib.page RUN` makes RUN/index.html again, of what the folder holds."""

import sys
from pathlib import Path

from distrib.errors import EXIT_DONE, BadInput
from distrib.exits import run_command, show_help
from distrib.files import write_atomically
from distrib.layout import METRICS, PAGE, STATUS
from distrib.page.live import available
from distrib.page.run_files import read_run
from distrib.text import harmless

_USAGE = "usage: twinstep page RUN"
_HELP = f"""\
{_USAGE}

Make RUN/index.html again from the files in RUN, the folder of a run.
Exit codes: 0 done, 2 bad input.
"""


def main(arguments: list[str]) -> int:
    """Write the page and return the exit code."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        return show_help(_HELP)
    if len(arguments) != 1:
        raise BadInput(f"expected the folder of one run, not {len(arguments)} arguments; {_USAGE}")
    folder = Path(arguments[0])
    if not (folder / STATUS).is_file():
        raise BadInput(
            f"{folder} is not the folder of a run: it holds no status.json; give one such as runs/quickstart-…"
        )
    if not available():
        raise BadInput("a page needs Jinja2, which is not installed here: pip install '.[page]' in a clone of Twinstep")
    from distrib.page.render import render

    try:
        run = read_run(folder)
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder / METRICS} cannot be read ({getattr(error, 'strerror', error)})") from None
    try:
        write_atomically(folder / PAGE, render(run))
    except OSError as error:
        raise BadInput(f"{folder / PAGE} cannot be written ({error.strerror})") from None
    print(harmless(str(folder / PAGE)))
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
