"""Tests that images are read from parquet files, also those of the hub's cache."""

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from distrib.data import selection
from distrib.data.config import DataConfig
from distrib.data.decoding.decoder import decode
from distrib.data.images import Dataset
from distrib.data.selection import ALL, Selection
from distrib.data.sources import folder, sources
from distrib.data.sources.parquet import hub, parquet
from distrib.data.sources.parquet.columns import ANY, WantedColumns
from distrib.errors import BadInput

CLASSES = ["owl", "wren"]
TRAIN, TEST = "train-00000-of-00001.parquet", "test-00000-of-00001.parquet"


@pytest.mark.parametrize("source", ["parquet:/nowhere", "hf:owner/birds"])
def test_without_pyarrow_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadInput, match=r"need pyarrow .*: pip install pyarrow"):
        sources.load(DataConfig(source=source), source)


def picture(seed: int, **options: Any) -> bytes:
    data = io.BytesIO()
    image = Image.fromarray(numpy.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=numpy.uint8))
    image.save(data, "PNG", **options)
    return data.getvalue()


def table(
    images: Sequence[Any],
    labels: Sequence[Any] | None = None,
    *,
    label: str = "label",
    features: bool = True,
    names: Sequence[str] = CLASSES,
) -> Any:
    """Return a table as `datasets` writes it."""
    pyarrow: Any = import_module("pyarrow")  # it has no types
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = [{"bytes": image, "path": f"{number}.png"} for number, image in enumerate(images)]
    labels = [number % 2 for number in range(len(images))] if labels is None else labels
    made = pyarrow.table({"image": pyarrow.array(rows, kind), label: pyarrow.array(labels)})
    if not features:
        return made
    said = {"image": {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}
    return made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": said}})})


def write(made: Any, file: Path, **options: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    writer: Any = import_module("pyarrow.parquet")
    writer.write_table(made, file, **options)


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    """Nine training images in two files and three row groups, and four test images."""
    root = tmp_path / "birds"
    write(table([picture(n) for n in range(6)]), root / "train-00000-of-00002.parquet", row_group_size=4)
    write(table([picture(n) for n in range(6, 9)]), root / "train-00001-of-00002.parquet")
    write(table([picture(n) for n in range(9, 13)]), root / TEST)
    return root


def refused(path: Path, chosen: Selection = ALL, columns: WantedColumns = ANY) -> str:
    with pytest.raises(BadInput) as caught:
        parquet.load(path, path.parent / "cache", chosen, columns)
    return str(caught.value)


def test_images_are_those_of_a_folder_of_files(birds: Path, tmp_path: Path) -> None:
    data = parquet.load(birds, tmp_path / "cache")
    assert data.classes == ("owl", "wren")
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0, 1, 0, 1, 0]
    for number in range(13):
        split, row = ("train", number) if number < 9 else ("test", number - 9)
        label = (row if number < 6 else number - 6 if number < 9 else row) % 2
        file = tmp_path / "files" / split / CLASSES[label] / f"{number:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number))
    of_files = folder.load(tmp_path / "files", tmp_path / "cache")
    assert torch.equal(data.train.images[data.train.labels.argsort(stable=True)], of_files.train.images)
    assert torch.equal(data.test.images[data.test.labels.argsort(stable=True)], of_files.test.images)
    assert data.notes == of_files.notes


def test_images_of_another_size_are_those_of_a_folder_of_files(birds: Path, tmp_path: Path) -> None:
    large = parquet.load(birds, tmp_path / "cache", Selection(image_size=48)).train.images
    file = tmp_path / "files" / "train" / "owl" / "0.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(picture(0))
    assert torch.equal(large[0], decode([file], size=48)[0][0])
    assert large.shape == (9, 48, 48, 3)


def test_a_photo_is_turned_as_the_camera_says(birds: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    write(table([picture(1, exif=exif), picture(1)]), birds / TEST)
    turned, stored = parquet.load(birds, tmp_path / "cache").test.images
    assert not torch.equal(turned, stored)


def test_the_second_load_decodes_nothing_and_a_changed_file_is_decoded(
    birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, pictures = birds / TEST, [picture(n) for n in range(9, 13)]
    write(table(pictures), file, compression="none")
    first = parquet.load(birds, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(parquet, "_decode", None)
        assert parquet.load(birds, tmp_path / "cache").fingerprint() == first.fingerprint()
    before = file.stat()
    write(table(pictures[::-1]), file, compression="none")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert parquet.load(birds, tmp_path / "cache").fingerprint() != first.fingerprint()


def test_links_to_folders_are_followed(birds: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/data").symlink_to(birds)
    linked = parquet.load(tmp_path / "linked", tmp_path / "cache")
    assert linked.fingerprint() == parquet.load(birds, tmp_path / "cache").fingerprint()


@pytest.mark.parametrize("count", [1, 2, 4, 9])
def test_some_images_are_those_of_all(birds: Path, tmp_path: Path, count: int) -> None:
    every = parquet.load(birds, tmp_path / "cache")
    some = parquet.load(birds, tmp_path / "cache", Selection(train=count))
    positions = torch.arange(count) * 9 // count
    assert torch.equal(some.train.images, every.train.images[positions])
    assert torch.equal(some.train.labels, every.train.labels[positions])


def test_more_images_than_memory_holds(birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "memory", lambda: 2 * 12 * 3072)
    assert "9 training images and 4 test images" in refused(birds)
    assert len(parquet.load(birds, tmp_path / "cache", Selection(train=8)).train) == 8


def test_a_row_group_that_memory_does_not_hold(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distrib.data.sources.parquet.table.memory", lambda: 4 * 1000)
    assert "takes" in (said := refused(birds))
    assert "more than a quarter of the memory here: write it again with smaller ones (row_group_size" in said


def test_all_rows_that_do_not_decode_are_named(birds: Path) -> None:
    write(table([picture(0), b"no image", None, b"P5 8193 8193 255\n"]), birds / TEST)
    said = refused(birds)
    for words in (
        "3 images cannot be used",
        f"row 1 of test ({TEST}) cannot be decoded (it is none of JPEG",
        f"row 2 of test ({TEST}) cannot be decoded (the table holds no bytes of it",
        f"row 3 of test ({TEST}) cannot be decoded (it has 67125249 pixels",
        "take them out of the set",
    ):
        assert words in said


def with_both(made: Any) -> Any:
    return made.append_column("coarse_label", made.column("label")).replace_schema_metadata({})


def test_labels_in_several_columns(birds: Path, tmp_path: Path) -> None:
    for file in birds.iterdir():
        write(with_both(table([picture(0), picture(1)])), file)
    said = refused(birds)
    assert (
        "several columns that may be the labels, label, coarse_label: say which with --data.label_column label" in said
    )
    data = parquet.load(birds, tmp_path / "cache", columns=WantedColumns(label="coarse_label"))
    assert data.classes == ("0", "1")
    assert "data.label_column = age" in (said := refused(birds, columns=WantedColumns(label="age")))
    assert "is not there; accepted are label, coarse_label" in said
    assert "data.image_column = label" in refused(birds, columns=WantedColumns(image="label"))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["wren", "owl"], "label 0 of column label means 'owl' in {train} and 'wren' in {file}"),
        (["owl", "tit", "wren"], "label 1 of column label means 'wren' in {train} and 'tit' in {file}"),
        (["owl", "wren", "tit"], "label 2 of column label means nothing in {train} and 'tit' in {file}"),
        (["owl"], "label 1 of column label means 'wren' in {train} and nothing in {file}"),
    ],
)
@pytest.mark.parametrize("file", [TEST, "train-00001-of-00002.parquet"])
def test_files_that_number_the_classes_in_their_own_way(
    birds: Path, file: str, names: Sequence[str], words: str
) -> None:
    write(table([picture(0)], [0], names=names), birds / file)
    said = refused(birds)
    assert words.format(train=birds / "train-00000-of-00002.parquet", file=birds / file) in said
    assert "number the classes of all files alike" in said


def test_a_file_without_names_has_those_of_the_others(birds: Path, tmp_path: Path) -> None:
    write(table([picture(0)], [1], features=False), birds / TEST)
    assert parquet.load(birds, tmp_path / "cache").classes == ("owl", "wren")


def test_labels_that_are_words_are_refused_by_what_is_accepted(birds: Path) -> None:
    """Whole numbers are enough: names of the classes may be missing."""
    for file in birds.iterdir():
        write(table([picture(0)], ["owl"], features=False), file)
    assert "has no column with whole numbers; its columns are" in refused(birds)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "no label": (lambda: table([picture(0)]).select(["image"]), "column label of"),
    "another type": (lambda: table([picture(0)], ["owl"], features=False), "or of another type than in the first file"),
    "a label that is missing": (
        lambda: table([picture(0), picture(1)], [0, None]),
        "row 1 of test has no label: take it out",
    ),
    "no labels, as -1": (lambda: table([picture(0)], [-1]), "column label of test holds the label -1 in row 0"),
    "a label without a name": (lambda: table([picture(0)], [2]), "holds the label 2 in row 0: there are 2 names"),
    "no rows": (lambda: table([picture(0)]).slice(0, 0), "its split test has 0 rows"),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_tables_that_are_refused(birds: Path, what: str) -> None:
    made, words = WRONG[what]
    write(made(), birds / TEST)
    assert words in (said := refused(birds))
    assert said.startswith(f"data.source = parquet:{birds}")


def test_a_file_that_is_cut_and_a_folder_that_is_gone(birds: Path, tmp_path: Path) -> None:
    file = birds / TEST
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file} cannot be read (" in refused(birds)
    assert "there is no such folder" in refused(tmp_path / "nowhere")


@pytest.fixture
def hub_cache(birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the hub with the set owner/birds, as huggingface_hub lays it out."""
    root = tmp_path / "hub"
    place, commit = root / "datasets--owner--birds", "a" * 40
    (place / "refs").mkdir(parents=True)
    (place / "refs/main").write_text(commit)
    shutil.copytree(birds, place / "snapshots" / commit / "plain_text")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return place / "snapshots" / commit


def of_hub(name: str, cache: Path, *, download: bool = True) -> Dataset:
    return hub.load(name, cache, ALL, ANY, download=download)


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("download", [True, False])
@pytest.mark.parametrize("name", ["owner/birds", "owner/birds/plain_text"])
def test_a_set_of_the_hub_that_is_cached_needs_no_network(
    birds: Path, tmp_path: Path, name: str, download: bool
) -> None:
    data = of_hub(name, tmp_path / "cache", download=download)
    assert data.name == f"hf:{name}"
    assert data.fingerprint() == parquet.load(birds, tmp_path / "cache").fingerprint()


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize(
    ("name", "download", "words"),
    [
        ("owner/crows", True, "hf:owner/crows cannot be fetched from the hub ("),
        ("owner/crows", False, "hf:owner/crows is not whole in the cache of the hub, and data.download is false: fetch it once"),
        ("owner/birds/other", False, "holds no parquet files of a training and a test split"),
        ("birds", True, "expected is hf:OWNER/NAME"),
        ("../../birds", True, "expected is hf:OWNER/NAME"),
    ],
)  # fmt: skip
def test_a_set_of_the_hub_that_is_not_there(tmp_path: Path, name: str, download: bool, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        of_hub(name, tmp_path / "cache", download=download)
    assert words in str(caught.value)


def test_a_set_of_the_hub_that_is_cached_in_part(hub_cache: Path, tmp_path: Path) -> None:
    (hub_cache / "plain_text/train-00001-of-00002.parquet").unlink()
    with pytest.raises(BadInput, match="1 of 2 files are there"):
        of_hub("owner/birds", tmp_path / "cache", download=False)
    with pytest.raises(BadInput, match="cannot be fetched from the hub"):
        of_hub("owner/birds", tmp_path / "cache")


@pytest.mark.usefixtures("hub_cache")
def test_a_mistake_of_ours_is_not_called_one_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistake(*_: object) -> None:
        raise KeyError("test")

    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda *_args, **_options: ["train.parquet"])  # pyright: ignore
    monkeypatch.setattr(hub, "split_files", mistake)
    with pytest.raises(KeyError, match="test"):
        of_hub("owner/crows", tmp_path / "cache")
