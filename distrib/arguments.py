"""Parses the command lines of the small commands: a mistake in one is bad input like any other."""

import argparse
from typing import NoReturn

from distrib.errors import BadInput


class Parser(argparse.ArgumentParser):
    """A parser that raises BadInput, where argparse's own would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(message)
