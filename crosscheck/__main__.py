"""`python -m crosscheck COMMAND`: replay, report, record, watch, atlas. `--help` says what each of them takes and exits with."""

import argparse
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from crosscheck.commands import atlas, record, replay, report, watch
from crosscheck.commands.output import (
    EXIT_FAULT,
    EXIT_INTERRUPTED,
    Unwritable,
    refuse,
    say,
    tell,
)
from crosscheck.errors import TraceError, UnsupportedOptimizer
from crosscheck.streams import open_streams

COMMANDS = {"replay": replay, "report": report, "watch": watch, "record": record, "atlas": atlas}
_OURS = ("twinstep", "distrib", "crosscheck")
"""Packages that no extra installs: where a module of theirs is missing, the installation or the program is broken."""


class _Parser(argparse.ArgumentParser):
    """A parser whose --help says that standard output takes nothing more, where argparse's own is silent."""

    def print_help(self, file: Any = None) -> None:  # noqa: ARG002
        try:
            say(self.format_help().rstrip())
        except Unwritable as error:
            self.exit(refuse(str(error)))


def main(arguments: Sequence[str] | None = None, prog: str = "crosscheck") -> int:
    """Run a command and return the exit code. `prog` is how the help calls the program."""
    open_streams()
    parser = _Parser(prog=prog, description="Check recorded steps of torch.optim against Optax.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, command in COMMANDS.items():
        command.add_options(commands.add_parser(name, help=command.HELP, description=command.__doc__))
    options, unknown = parser.parse_known_args(arguments)
    if unknown:  # parse_args would show the usage of the whole program, and not that of the command
        commands.choices[options.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        return COMMANDS[options.command].run(options)
    except (TraceError, UnsupportedOptimizer, Unwritable) as error:
        return refuse(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", *_OURS):
            return _fail()
        extra = {"torch": "train", "jinja2": "page"}.get(package, "replay")
        what = "--html" if extra == "page" else options.command
        return refuse(
            f"{what} needs {package}, which is not installed: pip install '.[{extra}]' in a clone of Twinstep"
        )
    except KeyboardInterrupt:
        tell("interrupted, and there is no verdict")
        return EXIT_INTERRUPTED
    except Exception:
        return _fail()


def _fail() -> int:
    """Print the error that is handled, and return the code of one that nobody foresaw: Python's own is that of a mismatch."""
    traceback.print_exc()
    tell("there is no verdict: this is a mistake of crosscheck itself, and the lines above say where")
    return EXIT_FAULT


if __name__ == "__main__":
    sys.exit(main())
