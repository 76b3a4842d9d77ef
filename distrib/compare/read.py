"""Reads run folders for `compare`; a folder that is not a run's is bad input."""

from dataclasses import replace
from pathlib import Path

from distrib.errors import BadInput
from distrib.layout import CONFIG, METRICS
from distrib.page import run_files
from distrib.page.run_files import RunFiles


def read_run(folder: Path) -> RunFiles:
    """Return what the folder of a run holds, under the name that was given. Raises BadInput for one that is none."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: there is no such folder; give the folders of runs, such as runs/a")
    if not (folder / METRICS).exists():
        raise BadInput(f"{folder} is not the folder of a run: it holds no metrics.jsonl")
    try:
        found = run_files.read_run(folder)
    except (OSError, ValueError) as error:
        raise BadInput(f"{folder}/metrics.jsonl cannot be read ({error})") from None
    if CONFIG in found.damaged:
        raise BadInput(f"{folder}/config.toml is no configuration that a run wrote")
    return replace(found, name=str(folder))
