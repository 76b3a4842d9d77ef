"""`python -m crosscheck replay TRACE [--json FILE]` and `python -m crosscheck atlas [--json FILE]`.

Exit codes of replay: 0 match, 1 mismatch, 2 bad input, 3 vacuous. Of atlas: 0 all agree, 1 not, 2 bad input.
"""

import argparse
import contextlib
import errno
import gc
import io
import os
import sys
from collections.abc import Generator, Sequence
from importlib import import_module
from pathlib import Path

from crosscheck.checks import CHECKS
from crosscheck.errors import TraceError, UnsupportedOptimizer
from crosscheck.files import write_whole
from crosscheck.report.report import EXIT_CODES
from crosscheck.text import shown

EXIT_BAD_INPUT = 2


class _Unwritable(Exception):
    """The file of --json; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code."""
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show is no reason to fall over
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    # All of it is float64 on the CPU; JAX would take most of a GPU's memory at once.
    os.environ["JAX_PLATFORMS"] = "cpu"
    parser = argparse.ArgumentParser(prog="crosscheck", description="Hold torch.optim against Optax.")
    commands = parser.add_subparsers(dest="command", required=True)
    replaying = commands.add_parser(
        "replay", help="replay a recorded run through Optax; exit 0 match, 1 mismatch, 3 vacuous"
    )
    replaying.add_argument("trace", type=Path, help="a trace, or the folder of a run that holds one")
    replaying.add_argument(
        "--require",
        metavar="CHECK",
        action="append",
        choices=CHECKS,
        default=[],
        help=f"refuse a trace that cannot answer this check (may be given again): {', '.join(CHECKS)}",
    )
    replaying.add_argument("--json", metavar="FILE", help="also write the report as JSON")
    mapping = commands.add_parser("atlas", help="every flag combination, implementation and dtype as one table")
    mapping.add_argument("--json", metavar="FILE", help="also write the table as JSON")
    options = parser.parse_args(arguments)
    try:
        if options.json is not None:
            _expect_writable(options.json)
        if options.command == "atlas":
            return _atlas(options.json)
        return _replay(options.trace, options.require, options.json)
    except (TraceError, UnsupportedOptimizer, _Unwritable) as error:
        return _refuse(str(error))
    except ModuleNotFoundError as error:
        extra = "train" if error.name == "torch" else "replay"
        return _refuse(f"{options.command} needs {error.name}, which is not installed: pip install 'twinstep[{extra}]'")


def _replay(trace: Path, require: Sequence[str], to: str | None) -> int:
    gc.disable()  # going through JAX's modules takes a quarter of the time to import it
    try:
        # JAX comes first, so that whoever lacks the extra is told so by the name of its best-known package.
        import_module("jax")

        from crosscheck.replayer import replay
    finally:
        gc.freeze()
        gc.enable()
    report = replay(trace, require=require)
    if to is not None:
        _write(to, report.to_json() + "\n")
    _say(report)
    return EXIT_CODES[report.verdict]


def _say(result: object) -> None:
    """Print the result. If the reader closes the pipe early (`| head -1`), the exit code stays the same."""
    try:
        print(result, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _atlas(to: str | None) -> int:
    from crosscheck.atlas import draw

    atlas = draw(progress=sys.stderr.isatty())
    if to is not None:
        _write(to, atlas.to_json() + "\n")
    _say(atlas)
    return 0 if atlas.agrees else 1


@contextlib.contextmanager
def _writing(to: str) -> Generator[Path]:
    """Yield the path of `to`, and turn an OSError into _Unwritable, which names the file as the user did."""
    try:
        yield Path(to)
    except OSError as error:
        raise _Unwritable(f"--json {to} cannot be written ({error.strerror})") from None


def _expect_writable(to: str) -> None:
    """Check before the work whether the file can be written. Raises _Unwritable."""
    with _writing(to) as path:
        if path.exists() and not path.is_file():
            raise OSError(errno.EINVAL, "it is no regular file")
        if not path.parent.is_dir():
            raise OSError(errno.ENOTDIR, "there is no such folder")


def _write(to: str, text: str) -> None:
    """Write the file; an old one stays until the new one is complete. Raises _Unwritable."""
    with _writing(to) as path:
        write_whole(path, text.encode())


def _refuse(message: str) -> int:
    print(f"bad input: {shown(message)}", file=sys.stderr)
    return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
