"""A file is the old one or the new one."""

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrib import files
from distrib.errors import BadInput
from distrib.files import expand_path, read_json, replacing, sync, write_atomically, write_json
from tests.disk import at_once, failing
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


def test_a_number_that_json_lacks_is_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [1.5, (float("-inf"),)], "c": "nan"})
    assert read_json(tmp_path / "a.json") == {"a": None, "b": [1.5, [None]], "c": "nan"}


def test_value_that_json_lacks_leaves_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {1, 2})
    assert only_file(tmp_path).read_text() == "1\n"


def test_sync_of_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "absent")


@pytest.mark.parametrize("number", files.TRANSIENT, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
@pytest.mark.parametrize("times", [3, 4])
def test_what_passes_by_itself_is_tried_four_times(
    call: str, number: int, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    write_json(path, "old")
    monkeypatch.setattr(time, "sleep", at_once)
    monkeypatch.setattr(os, call, failing(number, times, getattr(os, call)))
    if times < 4:
        write_json(path, "new")
    else:
        with pytest.raises(OSError, match=r"a\.json'$") as caught:
            write_json(path, "new")
        assert (caught.value.errno, caught.value.filename) == (number, str(path))
    monkeypatch.undo()
    assert read_json(path) == ("new" if times < 4 else "old")


def test_what_does_not_pass_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        calls.append(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    calls: list[int] = []
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/a'"):
        write_atomically(tmp_path / "a", "x")
    assert len(calls) == 1


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def hole(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)


@pytest.mark.parametrize(
    ("make", "words"),
    [(pipe, "a pipe"), (link_to_a_device, "a device"), (Path.mkdir, "a folder"), (hole, "1099511627776 bytes")],
)
def test_what_is_no_file_or_too_large_is_not_read(make: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(files.Unfit, match=words):
        files.read(tmp_path / "a", 1000)


def test_a_file_that_grows_while_it_is_read_has_an_end() -> None:
    """What /proc holds says that it is empty."""
    assert files.read(Path("/proc/self/status"), 2**20)
    with pytest.raises(files.Unfit, match="more than the 10 bytes"):
        files.read(Path("/proc/self/status"), 10)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "\x80"])
def test_what_is_no_json_is_a_value_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r".+"):
        read_json(tmp_path / "a")


@pytest.mark.parametrize("make", [pipe, link_to_a_device])
def test_a_device_or_a_pipe_is_not_replaced(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "a"
    make(path)
    with pytest.raises(OSError, match="is in its place"):
        write_atomically(path, "x")
    assert not path.is_file()
    assert only_file(tmp_path) == path


def test_a_path_that_is_no_utf_8_comes_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_json(tmp_path / "a.json", {"folder": name})
    assert read_json(tmp_path / "a.json") == {"folder": name}


@pytest.mark.parametrize(("text", "words"), [("~nobody-of-this-name/x", "give the whole path"), ("a\0b", "NUL")])
def test_what_is_no_path(text: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        expand_path(text, "output.dir")


def test_a_path_of_the_user() -> None:
    assert expand_path("~/runs", "output.dir") == Path.home() / "runs"
