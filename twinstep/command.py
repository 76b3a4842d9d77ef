"""`twinstep COMMAND …`: everything a user types, behind one name. Each command also runs as `python -m …`.

The commands have parsers of their own, and their help comes from the configuration's sections; so this only dispatches. It
imports nothing that takes time before it knows the command: torch and JAX take seconds.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module, metadata
from io import StringIO

_EXIT_BAD_INPUT = 2


@dataclass(frozen=True, slots=True)
class Command:
    """One command: the module whose `main` runs it, and the extra of the package that it needs."""

    module: str
    extra: str
    summary: str


COMMANDS = {
    "train": Command("distrib.train", "train", "train what a recipe says"),
    "sweep": Command("distrib.sweep.__main__", "train", "train each run of a file, some at a time"),
    "launch": Command("distrib.launcher", "train", "start several ranks, as accelerate launch does"),
    "doctor": Command("distrib.doctor.__main__", "train", "check this machine: devices, versions, what would fail"),
    "compare": Command("distrib.compare.__main__", "train", "show runs side by side, and where they first differ"),
    "page": Command("distrib.page.__main__", "train", "make the page of a run again"),
    "predict": Command("distrib.predict", "train", "print which classes the network of a run finds in images"),
    "export": Command("distrib.export.__main__", "train", "write the network of a run as .pt2 and ONNX"),
    "bench": Command("distrib.bench", "train", "measure what the loop costs beside the network"),
    "replay": Command("crosscheck.__main__", "replay", "compute each recorded step again with Optax"),
    "report": Command("crosscheck.__main__", "replay", "replay, and write a page that shows the result"),
    "watch": Command("crosscheck.__main__", "replay", "replay while the trace grows"),
    "record": Command("crosscheck.__main__", "replay", "run a script as it is, record its optimizers, replay"),
    "atlas": Command("crosscheck.__main__", "replay", "check every flag and dtype of torch against Optax"),
}
_TITLES = {"train": "train and look, with torch", "replay": "check, with JAX and Optax"}
_EXAMPLES = """\
examples
  twinstep train quickstart
  twinstep train quickstart --optimizer.name adam --training.epochs 1
  twinstep train --help optimizer     the keys of one section, with defaults
  twinstep compare runs/a runs/b
  twinstep export runs/a              for other programs
  twinstep report runs/a              of a run with --crosscheck.record
  twinstep record -- python train.py  any script that uses torch.optim
  twinstep launch --config_file cpu-2 -m distrib.train quickstart \\
      --training.world_size 2
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        return _run(given[0], given[1:])
    parser = _parser()
    if given and not given[0].startswith("-"):
        near = get_close_matches(given[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        parser.error(f"there is no command {given[0]!r}: {hint}")
    options = parser.parse_args(given)
    if options.help:
        return _show(lambda: parser.format_help().rstrip())
    if options.version:
        return _show(versions)
    if options.path is not None:
        from distrib.launch_files import find

        return _show(lambda: str(find(options.path)))
    if options.completion is not None:
        return _show_completion(options.completion)
    parser.print_help(sys.stderr)
    return _EXIT_BAD_INPUT


def versions() -> str:
    """Return the versions of twinstep and of what it computes with, read without importing any of them."""
    python = ".".join(map(str, sys.version_info[:3]))
    return f"twinstep {_version('twinstep')} (Python {python}, torch {_version('torch')}, jax {_version('jax')})"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _run(name: str, arguments: list[str]) -> int:
    """Run a command of another package. One that misses a package of others says which extra brings it."""
    try:
        return _import(name)(arguments)
    except ModuleNotFoundError as error:
        return _lacking(f"twinstep {name}", COMMANDS[name].extra, error)


def _import(name: str) -> Callable[[list[str]], int]:
    """Return what runs the command. Raises ModuleNotFoundError."""
    run = import_module(COMMANDS[name].module).main
    if COMMANDS[name].extra == "replay":  # one program with all of these commands
        return lambda arguments: run([name, *arguments], prog="twinstep")
    return run


def _lacking(what: str, extra: str, error: ModuleNotFoundError) -> int:
    """Say what to install. Raises the error again if a module of ours is missing."""
    from distrib.exits import lacking

    print(f"bad input: {lacking(what, extra, error)}", file=sys.stderr)
    return _EXIT_BAD_INPUT


def _show(text: Callable[[], str]) -> int:
    """Print a text and return the exit code. One that cannot be made is refused."""
    from distrib.exits import run_command, show_help

    return run_command(lambda: show_help(f"{text()}\n"))


def _show_completion(shell: str) -> int:
    try:
        from twinstep.completion import script

        text = script(shell, {name: _help_of(name) for name in COMMANDS})
    except ModuleNotFoundError as error:
        return _lacking("twinstep --completion", "train", error)
    return _show(text.rstrip)


def _help_of(name: str) -> str:
    """Return what a command prints when it is asked for its help."""
    with redirect_stdout(StringIO()) as said, suppress(SystemExit):
        _import(name)(["--help"])
    return said.getvalue()


def _parser() -> argparse.ArgumentParser:
    lines = ["Train a network data-parallel, and check its recorded steps with Optax.", ""]
    for extra, title in _TITLES.items():
        lines.append(f"{title} (the extra {extra}):")
        lines += [f"  {name:<17} {each.summary}" for name, each in COMMANDS.items() if each.extra == extra]
        lines.append("")
    lines.append("twinstep COMMAND --help says what a command takes.")
    parser = argparse.ArgumentParser(
        prog="twinstep",
        usage="twinstep COMMAND ...",
        description="\n".join(lines),
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,  # argparse prints it itself, and is silent where standard output takes nothing
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this help message and exit")
    parser.add_argument("--version", action="store_true", help="versions of twinstep, Python, torch and JAX")
    parser.add_argument("--path", metavar="NAME", help="print where this recipe or launch file of the project is")
    parser.add_argument(
        "--completion", metavar="SHELL", choices=("bash", "zsh"), help="print completions, to be sourced by bash or zsh"
    )
    return parser
