"""Says which parquet files in a folder are of the training and which of the test split, by the names that data sets give them.

`data/train-00000-of-00002.parquet`, `train.parquet`, `train/0000.parquet`; a set with several variants has a folder for each.
"""

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import NoReturn

from distrib.errors import BadInput
from distrib.text import listed

_SPLITS = {"train": "train", "test": "test", "validation": "val", "valid": "val", "val": "val", "dev": "val"}
_FOLDER = re.compile("|".join(_SPLITS))
_FILE = re.compile(rf"({'|'.join(_SPLITS)})([-_.]\d.*)?")
_SHARD = re.compile(r"-(\d{1,9})-of-(\d{1,9})")
_TOLD = 5

Files = dict[str, list[PurePath]]


def split_files(said: str, names: Sequence[PurePath]) -> tuple[Files, list[PurePath]]:
    """Return the files of "train" and of "test", which "validation" stands in for, and those that are neither.

    Raises BadInput if a split or a file of one is missing, or if there are several variants of the set. `said` is the key and its
    value.
    """
    names = sorted(names)
    variants: dict[PurePath, Files] = {}
    for name in names:
        folder = name.parent
        if _FOLDER.fullmatch(folder.name):
            split, variant = _SPLITS[folder.name], folder.parent
        elif found := _FILE.fullmatch(name.stem):
            split, variant = _SPLITS[found[1]], folder
        else:
            continue
        variants.setdefault(variant, {}).setdefault(split, []).append(name)
    whole = {
        variant: files for variant, files in variants.items() if "train" in files and files.keys() & {"test", "val"}
    }
    if not whole:
        raise BadInput(
            f"{said} holds no parquet files of a training and a test split, only {listed(names, _TOLD) or 'nothing'}: expected "
            "are names like train-00000-of-00001.parquet and test-00000-of-00001.parquet (or validation), or folders train/ and "
            "test/"
        )
    if len(whole) > 1:
        raise BadInput(
            f"{said} holds {len(whole)} variants of the set, {listed(list(whole), _TOLD)}: name the folder of one, such as "
            f"{said}/{next(iter(whole))}"
        )
    (files,) = whole.values()
    chosen = {"train": files["train"], "test": files.get("test") or files["val"]}
    for its in chosen.values():
        _expect_all(said, its)
    used = {name for its in chosen.values() for name in its}
    return chosen, [name for name in names if name not in used]


def _expect_all(said: str, names: Sequence[PurePath]) -> None:
    """Raise BadInput if one of the files that together are a split is not there, or if they divide it in several ways."""
    series: dict[tuple[PurePath, str], list[tuple[PurePath, int, int]]] = {}
    numbered: set[PurePath] = set()
    for name in names:
        if found := _SHARD.search(name.stem):
            series.setdefault((name.parent, name.stem[: found.start()]), []).append(
                (name, int(found[1]), int(found[2]))
            )
            numbered.add(name)
    if numbered and len(numbered) < len(names):
        _refuse_both(said, next(name for name in names if name not in numbered), min(numbered))
    for shards in series.values():
        first, _, total = shards[0]
        files: dict[int, PurePath] = {}
        for name, number, its_total in shards:
            if its_total != total or number in files:
                _refuse_both(said, files.get(number, first), name)
            files[number] = name
        if len(files) < total:
            absent = next(number for number in range(total) if number not in files)
            raise BadInput(
                f"{said}: {len(files)} of {total} files are there of those like {first.name}; the first that is "
                f"missing is number {absent}: copy or download all"
            )


def _refuse_both(said: str, one: PurePath, two: PurePath) -> NoReturn:
    raise BadInput(
        f"{said} holds {one} and {two}, two divisions of one split, which would be trained on twice: take the files of one of "
        "them out"
    )
