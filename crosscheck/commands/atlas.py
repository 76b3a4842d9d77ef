"""Check every combination of flags, implementation and dtype of torch.optim against Optax, and print a table.

It takes two to four minutes. Exit codes: 0 all agree; 1 some do not; 2 bad input; 70 an error in this program; 130 interrupted.
"""

import argparse
import sys

from crosscheck.commands.files import expect_files
from crosscheck.commands.jax_modules import import_jax
from crosscheck.commands.output import say, tell, write

HELP = "check every combination of flags, implementation and dtype of torch.optim against Optax"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("--json", metavar="FILE", help="also write the table as JSON")
    parser.add_argument("--html", metavar="FILE", help="also write it as a page, which needs the extra page")


def run(options: argparse.Namespace) -> int:
    """Draw the table, print it, and return the exit code."""
    expect_files(json=options.json, html=options.html)
    import_jax()
    from crosscheck.atlas import draw, text

    tell("the whole table takes two to four minutes")
    atlas = draw(progress=sys.stderr.isatty())
    if options.json is not None:
        write("--json", options.json, atlas.to_json() + "\n")
    if options.html is not None:
        from crosscheck.atlas.page import render  # only now: it imports the template library

        write("--html", options.html, render(atlas))
    say(text(atlas))
    return 0 if atlas.agrees else 1
