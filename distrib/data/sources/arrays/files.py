"""Opens a .npz file, or a folder of .npy files, and finds the arrays in it by their names."""

import lzma
import zipfile
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from distrib.data.decoding.image_cache import state_of
from distrib.data.sources.arrays.npy import Npy
from distrib.errors import BadInput
from distrib.files import DISK_BROKEN, Unfit, open_regular

_SUFFIX = ".npy"
_LARGEST_FILE = 2**42  # bytes: how much of it is read depends on its headers and on memory
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, Unfit)


@dataclass(frozen=True, slots=True)
class ArrayFile:
    """A .npz file or a folder of .npy files that is open."""

    said: str
    """The key and its value, with which messages begin."""
    facts: Sequence[int]
    """Sizes and times of change of the files, which are others where the contents are."""
    _arrays: Mapping[str, Callable[[], tuple[IO[bytes], int]]]  # opens an array, and says how many bytes it has

    @property
    def names(self) -> list[str]:
        return sorted(self._arrays)

    @contextmanager
    def array(self, name: str) -> Generator[Npy]:
        """Open one array. Raises BadInput if it cannot be used, also while it is read, and OSError for a disk that breaks."""
        try:
            stream, size = self._arrays[name]()
            with stream:
                yield Npy(stream, size)
        except (OSError, *_DAMAGED) as error:
            raise BadInput(f"{self.said}: array {name}: {_why(error)}") from None

    def refuse(self, name: str, problem: str) -> BadInput:
        return BadInput(f"{self.said}: array {name} {problem}")


@contextmanager
def opened(path: Path) -> Generator[ArrayFile]:
    """Open `path`. Raises BadInput for what is neither a .npz file nor a folder, and OSError for a disk that breaks."""
    said = f"data.source = npz:{path}"
    try:
        if path.is_dir():
            yield _folder(said, path)
            return
        with open_regular(path, _LARGEST_FILE) as file, zipfile.ZipFile(file) as packed:
            yield _npz(said, path, packed)
    except (OSError, *_DAMAGED) as error:
        why = (
            "it is no whole .npz file: copy or save it again" if isinstance(error, zipfile.BadZipFile) else _why(error)
        )
        raise BadInput(f"{said}: {why}; expected is a .npz file, or a folder of .npy files") from None


def _folder(said: str, path: Path) -> ArrayFile:
    def open_file(file: Path) -> tuple[IO[bytes], int]:
        stream = open_regular(file, _LARGEST_FILE)
        return stream, file.stat().st_size

    files = sorted(file for file in path.iterdir() if file.suffix == _SUFFIX)
    facts = [fact for file in files for fact in state_of(file.stat())]
    return ArrayFile(said, facts, {file.stem: partial(open_file, file) for file in files})


def _npz(said: str, path: Path, packed: zipfile.ZipFile) -> ArrayFile:
    def open_member(member: zipfile.ZipInfo) -> tuple[IO[bytes], int]:
        if member.flag_bits & 1:
            raise Unfit("it is encrypted: save it without a password")
        return packed.open(member), member.file_size

    members = {member.filename.removesuffix(_SUFFIX): partial(open_member, member) for member in packed.infolist()}
    return ArrayFile(said, state_of(path.stat()), members)


def _why(error: Exception) -> str:
    """Return what is wrong, in words. Raises the error itself if it is of a disk that breaks."""
    if isinstance(error, Unfit):
        return str(error)
    if isinstance(error, OSError):
        if error.errno in DISK_BROKEN:
            raise error
        return f"it cannot be read ({error.strerror or error})"
    return f"it is damaged ({error}): copy or save it again"
