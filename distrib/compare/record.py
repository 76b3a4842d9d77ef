"""What a run's folder says of the run: configuration, the lines of its steps and epochs, and its summary. Needs no torch."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from distrib.errors import BadInput
from distrib.files import Unfit, read, read_json

_LARGEST_CONFIG = 2**20  # bytes
_LARGEST_METRICS = 2**28

Line = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """A run, as its files tell it. What a run that has not ended lacks is empty."""

    name: str
    config: Mapping[str, Any]
    """By dotted key."""
    steps: Mapping[int, Line]
    epochs: Mapping[int, Line]
    """By number of the epoch."""
    summary: Mapping[str, Any]


def read_run(folder: Path) -> Record:
    """Return what the folder of a run says. Raises BadInput for one that is none."""
    if not folder.is_dir():
        raise BadInput(f"{folder}: there is no such folder; give the folders of runs, such as runs/a")
    try:
        lines = _lines(read(folder / "metrics.jsonl", _LARGEST_METRICS))
    except FileNotFoundError:
        raise BadInput(f"{folder} is not the folder of a run: it holds no metrics.jsonl") from None
    except (OSError, Unfit) as error:
        raise BadInput(f"{folder}/metrics.jsonl cannot be read ({error})") from None
    return Record(
        name=str(folder),
        config=_config(folder / "config.toml"),
        steps={line["step"]: line for line in lines if line.get("kind") == "step"},
        epochs={line["epoch"]: line for line in lines if line.get("kind") == "epoch" and _is_count(line.get("epoch"))},
        summary=_summary(folder / "summary.json"),
    )


def _lines(data: bytes) -> list[dict[str, Any]]:
    """Return the lines that are objects with a step. A kill may have cut the last one short."""
    found: list[dict[str, Any]] = []
    for text in data.splitlines():
        try:
            value = json.loads(text.decode("utf-8"))
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            line = cast(dict[str, Any], value)
            if _is_count(line.get("step")):
                found.append(line)
    return found


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _config(path: Path) -> dict[str, Any]:
    try:
        return _flat(tomllib.loads(read(path, _LARGEST_CONFIG).decode("utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, Unfit, ValueError, RecursionError) as error:
        raise BadInput(f"{path} is no configuration that a run wrote ({error})") from None


def _flat(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{above}{key}"
        found |= _flat(cast(Mapping[str, Any], value), f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def _summary(path: Path) -> dict[str, Any]:
    """Return the summary; nothing for one that is not there, or damaged: the lines are there all the same."""
    try:
        found = read_json(path)
    except (OSError, Unfit, ValueError):
        return {}
    return cast(dict[str, Any], found) if isinstance(found, dict) else {}
