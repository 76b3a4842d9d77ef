"""Reads one array in NumPy's own format, a few rows at a time and never as Python objects.

Its header says how large it is before any of it is in memory.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy
from numpy.lib import format as header_format
from numpy.typing import NDArray

from distrib.files import Unfit

_READ = 2**24  # bytes at a time


class Npy:
    """An array of which the header has been read. The next bytes of its stream are its first row."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        """`size` is how many bytes the stream has. Raises Unfit for anything but numbers or text in C order, and OSError."""
        self._stream = stream
        shape, fortran, self.dtype = _header(stream)
        self.shape = tuple(shape)
        if self.dtype.hasobject:
            raise Unfit("it holds Python objects, which are never unpickled: save numbers, and names as text (dtype U)")
        if not shape:
            raise Unfit("it is a single number, not an array")
        if fortran and len(shape) > 1:
            raise Unfit("it is in Fortran order: save numpy.ascontiguousarray(…) of it")
        self._rows = shape[0]
        self._row = math.prod(shape[1:]) * self.dtype.itemsize
        there, needed = size - stream.tell(), self._row * self._rows
        if there != needed:
            raise Unfit(f"its header says {needed} bytes, and {there} are there: copy or save it again")

    def chosen(self, positions: NDArray[numpy.int64]) -> Iterator[tuple[NDArray[numpy.intp], NDArray[Any]]]:
        """Yield the rows at these positions, which ascend, as (places in `positions`, rows), a few at a time."""
        rows = max(1, _READ // max(1, self._row))
        for first in range(0, self._rows, rows):
            count = min(rows, self._rows - first)
            low, high = int(numpy.searchsorted(positions, first)), int(numpy.searchsorted(positions, first + count))
            places = numpy.arange(low, high)
            if not len(places):
                self._stream.seek(count * self._row, 1)
                continue
            yield places, self._next(count)[positions[places] - first]

    def whole(self) -> NDArray[Any]:
        """Return all rows. It is for the caller to see first that they are few."""
        found = numpy.empty(self.shape, self.dtype)
        rows = max(1, _READ // max(1, self._row))
        for first in range(0, self._rows, rows):
            found[first : first + rows] = self._next(min(rows, self._rows - first))
        return found

    def _next(self, count: int) -> NDArray[Any]:
        """Read the next rows. Raises Unfit if there are not so many, and OSError."""
        data = self._stream.read(count * self._row)
        if len(data) != count * self._row:
            raise Unfit("it ends too early: copy or save it again")
        return numpy.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])


def _header(stream: IO[bytes]) -> tuple[Sequence[int], bool, numpy.dtype[Any]]:
    """Return shape, whether the order is Fortran's, and type. Raises Unfit and OSError."""
    try:
        version = header_format.read_magic(stream)
        readers = {(1, 0): header_format.read_array_header_1_0, (2, 0): header_format.read_array_header_2_0}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, of files that Python 2 wrote
            shape, fortran, dtype = readers[version](stream)
    except OSError:
        raise
    except Exception:  # the header is a Python literal, and its parser raises whatever it meets
        raise Unfit("it is no array that numpy.save wrote, or a damaged one") from None
    if min(shape, default=0) < 0:
        raise Unfit("its header says a negative length")
    return shape, fortran, dtype
