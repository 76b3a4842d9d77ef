"""Tests which parquet files are training images and which are for testing, by their names."""

from pathlib import PurePath

import pytest

from distrib.data.sources.parquet.files import split_files
from distrib.errors import BadInput

TWO = ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet")


def split(*names: str) -> tuple[list[str], list[str], list[str]]:
    files, others = split_files("data.source = parquet:x", [PurePath(name) for name in names])
    return list(map(str, files["train"])), list(map(str, files["test"])), list(map(str, others))


@pytest.mark.parametrize(
    ("train", "test", "others"),
    [
        (["train.parquet"], ["test.parquet"], []),
        (["data/train-00000-of-00001.parquet"], ["data/validation-00000-of-00001.parquet"], []),
        (["data/train-00000-of-00002-0a.parquet", "data/train-00001-of-00002-9f.parquet"],
         ["data/test-00000-of-00001-1b.parquet"], []),
        (["train/a-00000-of-00001.parquet", "train/b-00000-of-00002.parquet", "train/b-00001-of-00002.parquet"],
         ["test/0.parquet"], []),
        (["default/train/0000.parquet", "default/train/0001.parquet"], ["default/test/0000.parquet"], []),
        (["train.parquet"], ["test.parquet"], ["extra-00000-of-00001.parquet", "val.parquet"]),
        (["a/train.parquet"], ["a/test.parquet"], ["b/train.parquet"]),
    ],
)  # fmt: skip
def test_names_of_splits(train: list[str], test: list[str], others: list[str]) -> None:
    assert split(*others, *test, *train) == (train, test, others)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "holds no parquet files of a training and a test split, only nothing"),
        (("train.parquet", "extra.parquet"), "only extra.parquet, train.parquet: expected are names like train-"),
        (("partial-train/0000.parquet", "test/0000.parquet"), "holds no parquet files of a training and a test split"),
        (
            ("a/train.parquet", "a/test.parquet", "b/train.parquet", "b/val.parquet"),
            "holds 2 variants of the set, a, b: name the folder of one, such as data.source = parquet:x/a",
        ),
        (
            ("train-00000-of-00003.parquet", "train-00002-of-00003.parquet", "test.parquet"),
            "2 of 3 files are there of those like train-00000-of-00003.parquet; the first that is missing is number 1",
        ),
        (
            (*TWO, "train-00000-of-00001.parquet", "test.parquet"),
            "holds train-00000-of-00001.parquet and train-00000-of-00002.parquet, two divisions of one split",
        ),
        (
            (*TWO, "train.parquet", "test.parquet"),
            "holds train.parquet and train-00000-of-00002.parquet, two divisions of one split",
        ),
        (
            ("train.parquet", "test-00000-of-00001-1a.parquet", "test-00000-of-00001-2b.parquet"),
            "holds test-00000-of-00001-1a.parquet and test-00000-of-00001-2b.parquet, two divisions of one split",
        ),
    ],
)
def test_files_that_are_no_set(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(BadInput, match=r"data\.source = parquet:x") as caught:
        split(*names)
    assert words in str(caught.value)
