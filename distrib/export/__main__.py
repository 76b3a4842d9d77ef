"""Export the network of a run for other programs.

It writes into FOLDER, by default export/ in the folder of the run: model.pt2, a program of torch.export; model.onnx; and card.md,
which says what the network is and how to use it. Both programs take uint8 images and a batch of any size, and are checked against
the logits of the checkpoint. Exit codes: 0 done, 1 a file that computes something else, 2 bad input.
"""

import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from distrib.arguments import Parser
from distrib.errors import EXIT_DONE, BadInput
from distrib.exits import run_command
from distrib.export import card
from distrib.files import NEEDS_USER, replacing, retry_transient
from distrib.inference.saved_run import SavedRun
from distrib.page.run_files import read_run
from distrib.text import harmless

_CARD = "card.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Export, print what was written, and return the exit code."""
    return run_command(lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    parser = Parser(prog="twinstep export", description=__doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where the files go (default: RUN/export)")
    parser.add_argument(
        "--best", action="store_true", help="take the checkpoint of the best test accuracy (checkpoint.best)"
    )
    parser.add_argument(
        "--network", metavar="package.module:factory", help="the code of the network, if it is your own (model.name)"
    )
    given = parser.parse_args(arguments)
    _expect_packages()
    for line in export(given.run, given.to or given.run / "export", network=given.network, best=given.best):
        print(harmless(line), flush=True)
    return EXIT_DONE


def export(folder: Path, to: Path, *, network: str | None = None, best: bool = False) -> list[str]:
    """Write the files, and return a line about each; `network` and `best` are those of `SavedRun.classifier`.

    Raises BadInput, RunFault and OSError; then the files are what they were.
    """
    from distrib.export.program import export as programs

    run = SavedRun(folder)
    classifier = run.classifier(network=network, best=best)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters about themselves; what they make is checked
        files = programs(classifier)
    step = int(classifier.path.name.partition("-")[2])
    described = card.write(read_run(folder), classifier, step, files)
    contents = {name: file.content for name, file in files.items()} | {_CARD: described.encode()}
    _write(to, contents)
    return [
        f"{to / name}: {len(file.content):,} bytes; by {file.checked_by} its logits differ by at most {file.difference:.1e} of "
        "the largest one from the checkpoint's"
        for name, file in files.items()
    ] + [f"{to / _CARD}: what it is, how good it is, and how to use it"]


def _expect_packages() -> None:
    """Raise BadInput if something is not installed that writes ONNX."""
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise BadInput(
            f"twinstep export needs {' and '.join(missing)}, not installed here: pip install '.[export]' in a "
            "clone of Twinstep"
        )


def _write(to: Path, contents: Mapping[str, bytes]) -> None:
    """Replace the files, each whole or not at all, and the card last: its hashes say which files it is about.

    Raises BadInput and OSError.
    """
    try:
        retry_transient(to, lambda: to.mkdir(parents=True, exist_ok=True))
        for name, content in contents.items():

            def write(path: Path = to / name, content: bytes = content) -> None:
                with replacing(path) as new:
                    new.write_bytes(content)
                    new.chmod(0o644)

            retry_transient(to / name, write)
    except OSError as error:
        if error.errno not in NEEDS_USER:
            raise
        raise BadInput(
            f"{error.filename} cannot be written ({error.strerror}): name another folder with --to, or free space"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
