"""Reads tensors in the host's memory as NumPy arrays, which join many small pieces in less time than `torch.cat` does."""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Piece = NDArray[np.signedinteger[Any]]
"""Elements of a tensor where they are, as integers that have their bits. They are valid as long as the tensor's memory is."""

_INTEGERS: dict[int, np.dtype[Any]] = {size: np.dtype(f"i{size}") for size in (1, 2, 4, 8)}


def is_readable(tensor: Tensor) -> bool:
    """Return whether the host's memory holds the tensor's elements as they are.

    It does not hold those that torch negates when it reads them, nor those of a gradient that torch knows to be zero.
    """
    return (
        tensor.is_cpu
        and type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and not (tensor.is_neg() or tensor.is_nested or tensor._is_zerotensor())
        and tensor.element_size() in _INTEGERS
    )


def read(tensor: Tensor, start: int, step: int, size: int) -> Piece:
    """Return elements at equal distances of a readable tensor, in the order in which they lie. They must be within its memory.

    This is not `tensor.numpy()`, after which torch does not resize the user's memory any more, nor `np.from_dlpack`, which does
    not know bfloat16 and takes five times as long. Raises RuntimeError for a tensor whose memory was freed.
    """
    address = tensor.data_ptr()
    if size and not address:  # NumPy would take memory of its own, with anything in it
        raise RuntimeError("the memory of a tensor was freed")
    dtype = _INTEGERS[tensor.element_size()]
    nbytes = dtype.itemsize * ((size - 1) * step + 1) if size else 0
    memory: Any = _bytes(nbytes).from_address(address + dtype.itemsize * start)
    return np.ndarray((size,), dtype, memory, 0, (dtype.itemsize * step,))


@lru_cache(maxsize=4096)
def _bytes(count: int) -> type[ctypes.Array[ctypes.c_char]]:
    """Return the type of so many bytes. To make such a type anew takes longer than to read a piece."""
    return ctypes.c_char * count


def join(pieces: Sequence[Piece], dtype: torch.dtype) -> Tensor:
    """Return a copy of the elements, as one vector."""
    return torch.from_numpy(np.concatenate(pieces)).view(dtype)
