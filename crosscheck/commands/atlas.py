"""`python -m crosscheck atlas`: every flag combination, implementation and dtype as one table."""

import argparse
import sys

from crosscheck.commands.jax_modules import import_jax
from crosscheck.commands.output import say, write

HELP = "every flag combination, implementation and dtype as one table; exit 0 all agree, 1 not, 2 bad input"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--json", metavar="FILE", help="also write the table as JSON")


def run(options: argparse.Namespace) -> int:
    """Draw the table, print it, and return the exit code."""
    import_jax()
    from crosscheck.atlas import draw, text

    atlas = draw(progress=sys.stderr.isatty())
    if options.json is not None:
        write("--json", options.json, atlas.to_json() + "\n")
    say(text(atlas))
    return 0 if atlas.agrees else 1
