"""A file is written whole, whoever else writes it at the same moment."""

import os
from pathlib import Path

import pytest

from crosscheck.files import write_whole


def test_two_that_write_the_same_file_at_once_both_succeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second writes the whole file while the first has written but not yet renamed its own: the last rename wins."""
    path, fsync, others = tmp_path / "report.json", os.fsync, iter([b"of another process"])

    def fsync_while_another_writes(handle: int) -> None:
        for data in others:
            write_whole(path, data, shared=True)
            assert path.read_bytes() == data
        fsync(handle)

    monkeypatch.setattr(os, "fsync", fsync_while_another_writes)
    write_whole(path, b"of this process", shared=True)
    assert path.read_bytes() == b"of this process"
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    write_whole(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_whole(path, b"new")
    assert raised.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]
