"""`python -m crosscheck replay TRACE [--json FILE]` and `python -m crosscheck atlas [--json FILE]`.

Exit codes of replay: 0 match, 1 mismatch, 2 bad input, 3 vacuous. Of atlas: 0 all agree, 1 not, 2 bad input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from crosscheck.errors import TraceError, UnsupportedOptimizer

EXIT_BAD_INPUT = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code."""
    parser = argparse.ArgumentParser(prog="crosscheck", description="Hold torch.optim against Optax.")
    commands = parser.add_subparsers(dest="command", required=True)
    replaying = commands.add_parser(
        "replay", help="replay a recorded run through Optax; exit 0 match, 1 mismatch, 3 vacuous"
    )
    replaying.add_argument("trace", type=Path, help="a trace, or the folder of a run that holds one")
    replaying.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")
    mapping = commands.add_parser("atlas", help="every flag combination, implementation and dtype as one table")
    mapping.add_argument("--json", type=Path, metavar="FILE", help="also write the table as JSON")
    options = parser.parse_args(arguments)
    try:
        return _replay(options.trace, options.json) if options.command == "replay" else _atlas(options.json)
    except (TraceError, UnsupportedOptimizer) as error:
        return _refuse(str(error))
    except ModuleNotFoundError as error:
        return _refuse(f"{options.command} needs {error.name}, which is not installed: pip install 'twinstep[replay]'")
    except OSError as error:
        return _refuse(f"{error.filename} cannot be written ({error.strerror})")


def _replay(trace: Path, to: Path | None) -> int:
    from crosscheck.replayer import replay
    from crosscheck.report import EXIT_CODES

    report = replay(trace)
    if to is not None:
        write_whole(to, report.to_json() + "\n")
    print(report)
    return EXIT_CODES[report.verdict]


def _atlas(to: Path | None) -> int:
    from crosscheck.atlas import draw

    atlas = draw(progress=sys.stderr.isatty())
    if to is not None:
        write_whole(to, atlas.to_json() + "\n")
    print(atlas)
    return 0 if atlas.agrees else 1


def write_whole(path: Path, text: str) -> None:
    """The old file stays until the new one is complete."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def _refuse(message: str) -> int:
    print(f"bad input: {message}", file=sys.stderr)
    return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
