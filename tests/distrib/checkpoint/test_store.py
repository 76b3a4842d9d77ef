"""Checkpoints survive crashes, full disks and flipped bits, or say that they did not."""

import errno
import hashlib
import json
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from torch import Tensor

from distrib.checkpoint import store
from distrib.errors import BadInput
from distrib.files import TRANSIENT
from tests.disk import at_once, failing
from tests.support import largest_file

Parts = dict[str, dict[str, Tensor]]
Harm = Callable[[Path], object]


def parts(number: int = 0) -> Parts:
    """Two small parts whose bytes depend on the number."""
    return {
        "model": {"weight": torch.arange(12.0).reshape(3, 4) + number, "bias": torch.full((3,), float(number))},
        "optimizer": {"step/weight": torch.tensor(float(number))},
    }


def save(folder: Path, step: int, *, keep: int = 3) -> Path:
    return store.save(folder, step, parts(step), {"step was": step}, keep=keep)


def assert_is(checkpoint: store.Checkpoint | None, step: int) -> None:
    assert checkpoint is not None
    assert checkpoint.step == step
    assert checkpoint.values == {"step was": step}
    for name, expected in parts(step).items():
        found = checkpoint.tensors(name)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)
SHAPES = {"scalar": (), "empty": (0, 3), "vector": (5,), "images": (2, 3, 4, 5)}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", list(SHAPES))
def test_tensors_come_back_as_they_were(dtype: torch.dtype, shape: str, tmp_path: Path) -> None:
    saved = (torch.rand(SHAPES[shape], dtype=torch.float64) * 200 - 50).to(dtype)
    found = store.open_checkpoint(store.save(tmp_path, 1, {"model": {"x": saved}}, {}, keep=1)).tensors("model")["x"]
    assert found.dtype == dtype
    assert found.shape == saved.shape
    assert torch.equal(found, saved)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3),
    "strided": lambda x: x[:, 1:, ::2],
    "expanded": lambda x: x[:1].expand(4, -1, -1, -1),
    "offset": lambda x: x.flatten()[7:],
}


@pytest.mark.parametrize("view", list(VIEWS))
def test_memory_order_of_the_source_does_not_matter(view: str, tmp_path: Path) -> None:
    saved = VIEWS[view](torch.randn(2, 3, 4, 5))
    checkpoint = store.open_checkpoint(store.save(tmp_path, 1, {"model": {"x": saved}}, {}, keep=1))
    assert torch.equal(checkpoint.tensors("model")["x"], saved)


def test_not_a_number_and_infinity_come_back_bit_for_bit(tmp_path: Path) -> None:
    saved = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    checkpoint = store.open_checkpoint(store.save(tmp_path, 1, {"model": {"x": saved}}, {}, keep=1))
    assert torch.equal(checkpoint.tensors("model")["x"].view(torch.int32), saved.view(torch.int32))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=12, deadline=None)
@given(values=st.dictionaries(st.text(), json_values, max_size=4), step=st.integers(0, 10**9))
def test_step_and_values_come_back(values: dict[str, Any], step: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("values")
    checkpoint = store.open_checkpoint(store.save(folder, step, {}, values, keep=1))
    assert (checkpoint.step, checkpoint.values) == (step, values)


def test_part_that_was_not_saved_has_no_tensors(tmp_path: Path) -> None:
    assert store.open_checkpoint(save(tmp_path, 1)).tensors("ema") == {}


def test_folder_is_named_for_its_step_and_others_may_enter_it(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints", 390)
    assert path == tmp_path / "checkpoints" / "step-00000390"
    assert path.stat().st_mode & 0o777 == 0o755


def test_others_may_read_every_file(tmp_path: Path) -> None:
    modes = {file.name: oct(file.stat().st_mode & 0o777) for file in save(tmp_path, 1).iterdir()}
    assert set(modes.values()) == {"0o644"}, modes


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_oldest_are_dropped(keep: int, tmp_path: Path) -> None:
    for step in (1, 2, 3, 4, 5):
        save(tmp_path, step, keep=keep)
        kept = range(max(1, step - keep + 1), step + 1)
        assert names(tmp_path) == [f"step-{s:08d}" for s in kept]
        for s in kept:
            assert_is(store.open_checkpoint(tmp_path / f"step-{s:08d}"), s)


def test_age_is_a_number_not_a_name(tmp_path: Path) -> None:
    """Steps of nine digits sort before those of eight as text."""
    steps = [99_999_999, 100_000_000, 9]
    for step in steps:
        save(tmp_path, step)
    assert [path.name for path in store.candidates(tmp_path)] == ["step-100000000", "step-99999999", "step-00000009"]
    checkpoint, passed = store.newest_valid(tmp_path)
    assert_is(checkpoint, 100_000_000)
    assert passed == []


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-best").mkdir()
    for step in (1, 2, 3):
        save(tmp_path, step, keep=1)
    assert names(tmp_path) == ["notes.txt", "step-00000003", "step-best"]


@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_no_checkpoints_are_none(folder: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert store.candidates(tmp_path / folder) == []
    assert store.newest_valid(tmp_path / folder) == (None, [])


def test_second_save_of_a_step_replaces_the_first(tmp_path: Path) -> None:
    save(tmp_path, 4)
    store.save(tmp_path, 5, parts(77), {"old": True}, keep=3)
    save(tmp_path, 5)
    assert_is(store.open_checkpoint(tmp_path / "step-00000005"), 5)
    assert names(tmp_path) == ["step-00000004", "step-00000005"]


def test_replaces_a_step_that_is_there_twice_and_damaged_twice(tmp_path: Path) -> None:
    """A replacement was killed before its end, and then the disk lost both."""
    save(tmp_path, 4)
    _truncate(save(tmp_path, 5))
    shutil.copytree(tmp_path / "step-00000005", tmp_path / "step-00000005.old")
    assert_is(store.newest_valid(tmp_path)[0], 4)
    assert_is(store.open_checkpoint(save(tmp_path, 5)), 5)
    assert names(tmp_path) == ["step-00000004", "step-00000005"]


def test_leftovers_of_killed_saves_are_removed(tmp_path: Path) -> None:
    save(tmp_path, 1)
    for leftover in (".building-abc", "step-00000001.old"):
        shutil.copytree(tmp_path / "step-00000001", tmp_path / leftover)
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


# Damage: what somebody may find on a disk, and the words that tell him so.


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def _edit(path: Path, **changes: Any) -> None:
    """As somebody would who knows the format: the manifest's own hash is right again."""
    manifest = json.loads((path / "manifest.json").read_text()) | changes
    del manifest["sha256"]
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest | {"sha256": digest}))


def _truncate(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def _flip(path: Path) -> None:
    file = path / "optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _outside(path: Path) -> None:
    facts = json.loads((path / "manifest.json").read_text())["files"]
    shutil.copy(path / "model.safetensors", path.parent / "x.safetensors")
    _edit(path, files={"../x.safetensors": facts["model.safetensors"]})


def _pickle(path: Path) -> None:
    (path / "model.safetensors").write_bytes(pickle.dumps(Trap(path.parent / "trapped")))


def _text(text: str) -> Harm:
    return lambda path: (path / "manifest.json").write_text(text)


def _bytes(content: bytes) -> Harm:
    return lambda path: (path / "manifest.json").write_bytes(content)


def _folder_for_part(path: Path) -> None:
    (path / "model.safetensors").unlink()
    (path / "model.safetensors").mkdir()


DAMAGE: dict[str, tuple[Harm, tuple[str, ...]]] = {
    "truncated": (_truncate, ("model.safetensors", "bytes", "manifest")),
    "one bit flipped": (_flip, ("optimizer.safetensors", "sha256")),
    "part missing": (lambda path: (path / "model.safetensors").unlink(), ("model.safetensors", "No such file")),
    "part is a folder": (_folder_for_part, ("model.safetensors",)),
    "manifest missing": (lambda path: (path / "manifest.json").unlink(), ("manifest.json", "No such file")),
    "manifest empty": (_text(""), ("manifest.json", "not JSON")),
    "manifest is text": (_text("step: 3"), ("manifest.json", "not JSON")),
    "manifest is binary": (_bytes(b"\x80\x00\xff"), ("manifest.json", "not JSON")),
    "manifest is deep": (_text("[" * 100_000 + "]" * 100_000), ("manifest.json", "not JSON")),
    "manifest is a list": (_text("[]"), ("manifest.json", "lacks")),
    "manifest is null": (_text("null"), ("manifest.json", "lacks")),
    "manifest without step": (_text('{"format": "twinstep-checkpoint", "version": 1, "files": {}}'), ("lacks",)),
    "files are a list": (lambda path: _edit(path, files=["model.safetensors"]), ("lacks",)),
    "facts are null": (lambda path: _edit(path, files={"model.safetensors": None}), ("lacks",)),
    "step is a word": (lambda path: _edit(path, step="three"), ("lacks",)),
    "values are null": (lambda path: _edit(path, values=None), ("lacks",)),
    "file outside": (_outside, ("outside", "../x.safetensors")),
    "absolute file": (lambda path: _edit(path, files={"/etc/passwd": {}}), ("outside", "/etc/passwd")),
    "zero in a name": (lambda path: _edit(path, files={"a\0b": {"bytes": 0, "sha256": ""}}), ("manifest",)),
    "other version": (lambda path: _edit(path, version=2), ("version 2", "twinstep-checkpoint 1")),
    "other format": (lambda path: _edit(path, format="other"), ("other", "twinstep-checkpoint")),
    "pickle": (_pickle, ("model.safetensors",)),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_damage_is_named_and_passed_over(damage: str, tmp_path: Path) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    harm, words = DAMAGE[damage]
    harm(newest)

    with pytest.raises(store.Damaged) as caught:
        store.open_checkpoint(newest)
    checkpoint, passed = store.newest_valid(tmp_path)

    for word in words:
        assert word in str(caught.value)
    assert_is(checkpoint, 1)
    assert passed == [f"checkpoint {newest} skipped: {caught.value}"]
    assert not (tmp_path / "trapped").exists()


def test_pickle_whose_hash_is_right_is_not_executed(tmp_path: Path) -> None:
    """Somebody who can write the manifest can make any bytes verify; they must still be only data."""
    path = save(tmp_path, 1)
    _pickle(path)
    file = path / "model.safetensors"
    facts = {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    _edit(path, files={"model.safetensors": facts})
    checkpoint = store.open_checkpoint(path)
    with pytest.raises(BadInput, match="header"):
        checkpoint.tensors("model")
    assert not (tmp_path / "trapped").exists()


def test_all_damaged_are_named_newest_first(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        _truncate(save(tmp_path, step))
    checkpoint, passed = store.newest_valid(tmp_path)
    assert checkpoint is None
    assert [line.split()[1] for line in passed] == [str(tmp_path / f"step-{step:08d}") for step in (3, 2, 1)]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_of_a_tensor_file_is_found(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = save(tmp_path_factory.mktemp("flip"), 1)
    file = path / data.draw(st.sampled_from(["model.safetensors", "optimizer.safetensors"]))
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(content)
    with pytest.raises(store.Damaged, match=file.name):
        store.open_checkpoint(path)


def test_flipped_bit_in_the_manifest_values_is_found(tmp_path: Path) -> None:
    path = store.save(tmp_path, 1, parts(), {"applied_updates": 4}, keep=1)
    manifest = path / "manifest.json"
    flipped = manifest.read_text().replace('"applied_updates": 4', '"applied_updates": 5')  # 0x34 ^ 1
    manifest.write_text(flipped)
    with pytest.raises(store.Damaged):
        store.open_checkpoint(path)


def test_infinite_step_is_damage(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    _edit(path, step=float("inf"))
    with pytest.raises(store.Damaged):
        store.open_checkpoint(path)


# Disks that refuse.


@pytest.mark.parametrize("part", ["tensors", "manifest"])
@pytest.mark.parametrize("step", [2, 1], ids=["another step", "same step"])
def test_full_disk_leaves_the_earlier_checkpoint(part: str, step: int, tmp_path: Path) -> None:
    save(tmp_path, 1)
    tensors = {"model": {"x": torch.zeros(4000 if part == "tensors" else 4)}}
    values = {"text": "x" * 9000 if part == "manifest" else ""}
    with largest_file(4096), pytest.raises(BadInput) as caught:
        store.save(tmp_path, step, tensors, values, keep=1)
    for word in (f"step-{step:08d}", "output.dir", "free space", "File too large"):
        assert word in str(caught.value)
    assert names(tmp_path) == ["step-00000001"]
    assert_is(store.newest_valid(tmp_path)[0], 1)


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(BadInput, match=r"output\.dir"):
        save(tmp_path / "checkpoints", 1)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system keeps what it wrote in memory")
@pytest.mark.parametrize("step", [2, 1], ids=["another step", "same step"])
@pytest.mark.parametrize("part", ["model", "optimizer"])
def test_disk_that_returns_other_bytes_than_were_written(
    part: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only reading the disk itself can tell, so the bytes change where they leave the memory."""
    save(tmp_path, 1)
    synced: set[int] = set()
    sync = os.fsync

    def synchronise(handle: int) -> None:
        sync(handle)
        synced.add(os.fstat(handle).st_ino)

    def forget(handle: int, *_: object) -> None:
        assert os.fstat(handle).st_ino in synced  # what is not on the disk yet cannot be dropped
        path = Path(f"/proc/self/fd/{handle}").resolve()
        if path.name == f"{part}.safetensors":
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)

    monkeypatch.setattr(os, "fsync", synchronise)
    monkeypatch.setattr(os, "posix_fadvise", forget)
    with pytest.raises(BadInput) as caught:
        store.save(tmp_path, step, parts(77), {}, keep=1)
    for word in (
        f"step-{step:08d}",
        f"{part}.safetensors",
        "sha256",
        "output.dir",
        "earlier checkpoints are untouched",
    ):
        assert word in str(caught.value)
    assert names(tmp_path) == ["step-00000001"]
    assert_is(store.newest_valid(tmp_path)[0], 1)


def test_failed_replacement_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says that earlier checkpoints are untouched."""
    save(tmp_path, 5)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.startswith(".building-"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(BadInput, match="untouched"):
        store.save(tmp_path, 5, parts(77), {}, keep=3)
    assert_is(store.newest_valid(tmp_path)[0], 5)


def test_a_first_checkpoint_that_finds_no_space_leaves_nothing_to_continue_from(tmp_path: Path) -> None:
    with largest_file(100), pytest.raises(BadInput, match="there is no earlier checkpoint, so the same command begins"):
        save(tmp_path / "checkpoints", 5)
    assert names(tmp_path / "checkpoints") == []


# Crashes: the process ends before its n-th call to the operating system, for every n.


class Crash(BaseException):
    """Stands for SIGKILL: nobody catches it."""


class Fuse:
    """Raises Crash at the n-th call of a C function that touches files."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __enter__(self) -> "Fuse":
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _count(self, _frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call":
            return
        touches_files = getattr(function, "__module__", None) == "posix" or function.__name__ in (
            "open",
            "write",
            "flush",
            "serialize_file",
        )
        if touches_files and function.__name__ not in ("fspath", "getpid"):
            if self.left == 0:
                raise Crash
            self.left -= 1


def crashed(folder: Path, calls: int, step: int, keep: int) -> bool:
    try:
        with Fuse(calls):
            save(folder, step, keep=keep)
    except Crash:
        return True
    return False


def folders(tmp_path: Path, *steps: int) -> Iterator[tuple[int, Path]]:
    """0, 1, 2, …, each with a fresh folder that holds checkpoints of these steps."""
    for number in range(500):
        folder = tmp_path / str(number)
        for step in steps:
            save(folder, step)
        yield number, folder
        shutil.rmtree(folder)
    raise AssertionError("the save never completed")


@pytest.mark.parametrize("keep", [1, 2])
def test_crash_anywhere_in_a_save_leaves_a_whole_checkpoint(keep: int, tmp_path: Path) -> None:
    found: list[int] = []
    for calls, folder in folders(tmp_path, 10):
        survived = not crashed(folder, calls, 20, keep)
        checkpoint, _ = store.newest_valid(folder)
        assert checkpoint is not None
        assert_is(checkpoint, checkpoint.step)
        found.append(checkpoint.step)
        save(folder, 30, keep=1)
        assert names(folder) == ["step-00000030"]  # and nothing is left lying about
        assert_is(store.newest_valid(folder)[0], 30)
        if survived:
            break
    assert found == sorted(found)  # the old one up to the rename, from then on the new one
    assert set(found) == {10, 20}
    assert len(found) > 20


def test_crash_anywhere_in_a_replacement_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    found: set[int] = set()
    for calls, folder in folders(tmp_path, 5, 10):
        survived = not crashed(folder, calls, 10, 3)
        checkpoint, _ = store.newest_valid(folder)
        assert checkpoint is not None
        assert_is(checkpoint, checkpoint.step)
        found.add(checkpoint.step)
        if survived:
            assert_is(checkpoint, 10)
            break
    assert 10 in found


def test_crash_in_the_replacement_of_the_only_checkpoint_leaves_one(tmp_path: Path) -> None:
    for calls, folder in folders(tmp_path, 10):
        survived = not crashed(folder, calls, 10, 1)
        assert_is(store.newest_valid(folder)[0], 10)
        if survived:
            break


# What is kept is what a run can continue from.


@pytest.mark.parametrize("keep", [1, 2])
def test_checkpoint_just_written_is_never_dropped(keep: int, tmp_path: Path) -> None:
    """A run that continued from an older checkpoint writes steps below those that are there."""
    for step in (10, 20, 30):
        save(tmp_path, step)
    assert_is(store.open_checkpoint(save(tmp_path, 15, keep=keep)), 15)


def test_damaged_checkpoint_does_not_count_as_kept(tmp_path: Path) -> None:
    """After falling back over a damaged newest one, the run's own checkpoints must stay."""
    _truncate(save(tmp_path, 30))
    for step in (10, 20):
        save(tmp_path, step, keep=1)
    assert_is(store.newest_valid(tmp_path)[0], 20)


def test_what_a_killed_save_left_gives_its_space_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / ".building-killed"
    left.mkdir()
    write = store.save_file  # pyright: ignore[reportUnknownVariableType]

    def writing(*arguments: Any) -> None:
        assert not left.exists()
        write(*arguments)

    monkeypatch.setattr(store, "save_file", writing)
    save(tmp_path, 1)
    assert names(tmp_path) == ["step-00000001"]


BREAKING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENFILE, errno.ENOMEM, errno.EBUSY)


@pytest.mark.parametrize("number", BREAKING, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_disk_that_breaks_is_no_bad_input(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start may find it well again."""
    save(tmp_path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(time, "sleep", at_once)
        patch.setattr(os, call, failing(number, 10**9, getattr(os, call)))
        with pytest.raises(OSError, match=r"step-00000002'$") as caught:
            save(tmp_path, 2)
    assert caught.value.errno == number
    assert [name for name in names(tmp_path) if not name.startswith(".building-")] == ["step-00000001"]
    assert_is(store.newest_valid(tmp_path)[0], 1)


@pytest.mark.parametrize("number", TRANSIENT, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_what_passes_by_itself_is_waited_for(
    call: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", at_once)
    monkeypatch.setattr(os, call, failing(number, 3, getattr(os, call)))
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-00000002"]
    assert_is(store.newest_valid(tmp_path)[0], 2)


def test_an_error_of_the_disk_within_safetensors_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library only mentions it in the words of an error of its own."""

    def broken(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)")

    monkeypatch.setattr(store, "save_file", broken)
    with pytest.raises(OSError, match="Input/output error") as caught:
        save(tmp_path, 2)
    assert caught.value.errno == errno.EIO


def test_a_file_that_goes_after_it_was_verified_is_named(tmp_path: Path) -> None:
    checkpoint = store.open_checkpoint(save(tmp_path, 1))
    file = checkpoint.path / "model.safetensors"
    file.unlink()
    for read in (checkpoint.specs, checkpoint.tensors):
        with pytest.raises(OSError, match="No such file") as caught:
            read("model")
        assert caught.value.filename == str(file)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENFILE], ids=errno.errorcode.get)
@pytest.mark.parametrize("file", ["manifest.json", "model.safetensors"])
def test_a_disk_that_breaks_while_it_is_read_means_no_older_checkpoint(
    file: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    monkeypatch.setattr(time, "sleep", at_once)
    opening = os.open

    def broken(path: Any, *arguments: Any, **others: Any) -> int:
        if str(path).endswith(f"step-00000002/{file}"):
            raise OSError(number, os.strerror(number))
        return opening(path, *arguments, **others)

    monkeypatch.setattr(os, "open", broken)
    with pytest.raises(OSError, match=f"step-00000002/{file}") as caught:
        store.newest_valid(tmp_path)
    assert caught.value.errno == number


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    monkeypatch.setattr(Path, "iterdir", failing(errno.EACCES, 1, Path.iterdir))
    with pytest.raises(PermissionError, match=str(tmp_path)):
        store.newest_valid(tmp_path)


def test_where_none_can_be_read_nothing_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    monkeypatch.setattr(store, "read_json", failing(errno.EACCES, 1, store.read_json))
    with pytest.raises(BadInput, match=r"step-00000001: manifest\.json cannot be read \(Permission denied\)"):
        store.newest_valid(tmp_path)
