"""`python -m distrib.page RUN` makes RUN/index.html again, of what the folder holds."""

import sys
from pathlib import Path

from distrib.display import open_streams, print_error
from distrib.errors import EXIT_BAD_INPUT, EXIT_DONE
from distrib.page import PAGE
from distrib.page.live import available

USAGE = "usage: twinstep page RUN      (the folder of a run; writes RUN/index.html)"


def main(arguments: list[str]) -> int:
    """Write the page and return the exit code."""
    open_streams()
    if arguments in (["-h"], ["--help"]):
        print(USAGE)
        return EXIT_DONE
    if len(arguments) != 1:
        return _refuse(f"expected the folder of one run, not {len(arguments)} arguments; {USAGE}")
    folder = Path(arguments[0])
    if not (folder / "status.json").is_file():
        return _refuse(
            f"{folder} is not the folder of a run: it holds no status.json; give one such as runs/quickstart-…"
        )
    if not available():
        return _refuse("a page needs Jinja2, which is not installed here: pip install 'twinstep[page]'")
    from distrib.page.render import write

    try:
        write(folder)
    except (OSError, ValueError) as error:
        return _refuse(f"{folder / PAGE} cannot be written: {error}")
    print(folder / PAGE)
    return EXIT_DONE


def _refuse(message: str) -> int:
    print_error(f"bad input: {message}")
    return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
