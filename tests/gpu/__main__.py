"""`python -m tests.gpu --out DIR [--minutes 9] [--parts a,b] [--device cuda|cpu] [--again]`.

Exit codes: 0 every part came to its end and found nothing wrong, 1 the report tells what did not, 2 bad input.
"""

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import FrameType

from tests.gpu import requirements

START = time.monotonic()
EXIT_DONE, EXIT_PROBLEM, EXIT_BAD_INPUT = 0, 1, 2


class BadInput(Exception):
    """The message names what was given, what is accepted, and the fix."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the kit and return the exit code."""
    options = _parse(arguments)
    try:
        return _run(options)
    except BadInput as error:
        print(f"bad input: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu", description="Measure on one GPU what there is to know."
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="report.json, report.md and log.txt go there"
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="the most that all of it may take (default: 9)")
    parser.add_argument("--parts", metavar="A,B", help="only these parts (default: all)")
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses in small (default: cuda)"
    )
    parser.add_argument("--again", action="store_true", help="measure once more what DIR holds of these parts")
    return parser.parse_args(arguments)


def _run(options: argparse.Namespace) -> int:
    lacking = requirements.problem()
    if lacking:
        raise BadInput(lacking)
    from tests.gpu import kit, report  # they need pydantic

    if not (math.isfinite(options.minutes) and options.minutes > 0):
        raise BadInput(f"--minutes {options.minutes}: give a number of minutes above 0")
    try:
        slots = kit.choose(None if options.parts is None else options.parts.split(","))
    except KeyError as error:
        raise BadInput(f"--parts {options.parts}: there is no part {error}; there are {', '.join(kit.PARTS)}") from None
    images = _images()
    device = _device(options.device)
    versions = {name: metadata.version(name) for name in ("torch", "jax", "optax", "accelerate", "numpy")}
    folder: Path = options.out
    try:
        folder.mkdir(parents=True, exist_ok=True)
        whole = report.read(folder / "report.json") or report.Report(
            device=device, versions=versions, started=datetime.now(UTC).isoformat(timespec="seconds")
        )
        if (whole.device, whole.versions) != (device, versions):
            raise BadInput(
                f"--out {folder} holds a report of {whole.device} with {whole.versions}, and this is {device} with "
                f"{versions}: choose another folder"
            )
        if options.again:
            for name in slots:
                whole.parts[name] = report.Part()
        report.write(whole, folder)
    except report.Unreadable as error:
        raise BadInput(f"--out {folder}: {error}; choose another folder") from None
    except OSError as error:
        raise BadInput(f"--out {folder} cannot be written ({error.strerror}): choose another folder") from None
    signal.signal(signal.SIGTERM, _leave)
    with kit.work_folder() as work:
        setting = kit.Setting(device=options.device, work=work, images=images)
        kit.run(whole, slots, folder, setting=setting, start=START, total=60 * options.minutes)
    print(f"{folder / 'report.md'} after {time.monotonic() - START:.0f} s")
    return EXIT_DONE if all(whole.parts[name].is_good for name in slots) else EXIT_PROBLEM


def _leave(number: int, frame: FrameType | None) -> None:
    """A request to stop ends the part that runs; what it has measured is in the report."""
    del frame
    sys.exit(128 + number)


def _images() -> Path | None:
    named = os.environ.get("TWINSTEP_IMAGES")
    if named and not (Path(named) / "train").is_dir():
        raise BadInput(f"TWINSTEP_IMAGES = {named} is no folder with train/ and test/ in it: correct it, or unset it")
    return Path(named).resolve() if named else None


def _device(wanted: str) -> str:
    """The GPU's name, or cpu."""
    if wanted == "cpu":
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise BadInput("--device cuda: PyTorch sees no CUDA device here; rehearse with --device cpu")
    return torch.cuda.get_device_name()


if __name__ == "__main__":
    sys.exit(main())
