"""Print which classes the network of a run finds in images.

RUN is the folder of a run, or one of its checkpoints; IMAGE is a file, or a folder with images in it and below it. Each image has
a line, with the most probable classes first. Exit codes: 0 done, 1 fault, 2 bad input.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from distrib.arguments import Parser
from distrib.data.sources.folder import image_files
from distrib.errors import EXIT_DONE, BadInput
from distrib.exits import run_command
from distrib.files import to_json
from distrib.inference.network import load
from distrib.text import one_line

_BATCH = 512 * 32 * 32  # pixels of the images that the network is given at once


def main(arguments: Sequence[str] | None = None) -> int:
    """Predict, print, and return the exit code."""
    return run_command(lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    given = _parse(arguments)
    files = list(_files(given.images))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    classifier = load(given.run, device, network=given.network, best=given.best)
    batch = max(1, _BATCH // classifier.image_size**2)
    for first in range(0, len(files), batch):
        part = files[first : first + batch]
        for file, its in zip(part, classifier.predict(part), strict=True):
            print(_as_json(file, its) if given.json else _as_line(file, its, given.top), flush=True)
    return EXIT_DONE


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="twinstep predict", usage="%(prog)s [OPTION ...] RUN IMAGE ...", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, or a checkpoint in it")
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="image files, and folders of them")
    parser.add_argument(
        "--best", action="store_true", help="take the checkpoint of the best test accuracy (checkpoint.best)"
    )
    parser.add_argument(
        "--network", metavar="package.module:factory", help="the code of the network, if it is your own (model.name)"
    )
    parser.add_argument("--top", type=int, default=3, metavar="N", help="classes to show (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="a JSON object a line, with all classes")
    given = parser.parse_args(arguments)
    if given.top < 1:
        raise BadInput(f"--top {given.top}: at least one class is shown")
    return given


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield the files, and the images of the folders.

    Raises BadInput for what is not there, and a folder without any or that cannot be read.
    """
    for path in paths:
        if not os.path.lexists(path):
            raise BadInput(
                f"{path}: there is no such file or folder: give the path of an image, or of a folder with some"
            )
        if not path.is_dir():
            yield path
            continue
        try:
            found = image_files(path)
        except OSError as error:
            raise BadInput(f"{error.filename} cannot be read ({error.strerror})") from None
        if not found:
            raise BadInput(f"{path} holds no images")
        yield from found


def _as_line(file: Path, classes: Mapping[str, float], top: int) -> str:
    shown = [f"{name} {probability:.3f}" for name, probability in list(classes.items())[:top]]
    return one_line(f"{file}  {'  '.join(shown)}")


def _as_json(file: Path, classes: Mapping[str, float]) -> str:
    return to_json({"file": str(file), "class": next(iter(classes)), "probabilities": classes})


if __name__ == "__main__":
    sys.exit(main())
