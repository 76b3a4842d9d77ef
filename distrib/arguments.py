"""Parses the command lines of the small commands: a mistake in one is bad input like any other."""

import argparse
from typing import Any, NoReturn

from distrib.errors import BadInput
from distrib.text import print_help


class Parser(argparse.ArgumentParser):
    """A parser that raises BadInput, where argparse's own would print its usage and exit.

    Its --help raises OSError where standard output takes nothing more, of which argparse's own says nothing.
    """

    def error(self, message: str) -> NoReturn:
        raise BadInput(message)

    def print_help(self, file: Any = None) -> None:  # noqa: ARG002
        print_help(self.format_help())
