"""A file is the old one or the new one."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrib.errors import BadInput
from distrib.files import expand_path, replacing, sync, write_atomically, write_json
from tests.support import largest_file


def only_file(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


@settings(max_examples=15, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r")), min_size=1, max_size=3)
)
def test_last_text_is_there_and_nothing_else(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("files") / "ü.txt"
    for text in texts:
        write_atomically(path, text)
    assert path.read_text(encoding="utf-8") == texts[-1]
    assert only_file(path.parent) == path


def test_others_may_read_it(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", "x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("size", [4000, 400_000], ids=["at the flush", "while writing"])
def test_full_disk_leaves_the_old_file(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a"
    write_atomically(path, "old")
    with largest_file(100), pytest.raises(OSError, match="too large"):
        write_atomically(path, "x" * size)
    assert only_file(tmp_path).read_text() == "old"


def test_text_that_cannot_be_encoded_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert only_file(tmp_path).read_text() == "old"


def test_folder_in_place_of_the_file_leaves_no_rubbish(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "a", "x")
    assert only_file(tmp_path) == tmp_path / "a"


def test_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "absent" / "a", "x")


def test_what_fails_while_the_new_file_is_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail(new: Path) -> None:
        new.write_text("half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), replacing(path) as new:
        fail(new)
    assert only_file(tmp_path).read_text() == "old"


def test_what_is_not_meant_for_others_stays_private(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as new:
        new.write_bytes(b"x")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_json_is_for_people_and_programs(tmp_path: Path) -> None:
    value = {"name": "Zürich", "list": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", value)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == value
    assert "Zürich" in text
    assert text.endswith("}\n")
    assert len(text.splitlines()) > 2


def test_value_that_json_lacks_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {1, 2})
    assert only_file(tmp_path).read_text() == "1\n"


def test_sync_of_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "absent")


@pytest.mark.parametrize(("text", "words"), [("~nobody-of-this-name/x", "give the whole path"), ("a\0b", "NUL")])
def test_what_is_no_path(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        expand_path(text, "output.dir")


def test_a_path_of_the_user() -> None:
    assert expand_path("~/runs", "output.dir") == Path.home() / "runs"
