"""The digest is what docs/trace.md says, wherever it is computed."""

import itertools
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest
import torch

from crosscheck.recorder.digests import choose_ranges, on_device, on_host
from crosscheck.trace.digest import digest

DTYPES = {"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def splitmix64() -> Iterator[int]:
    state, mask = 0, 2**64 - 1
    while True:
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield z ^ (z >> 31)


def by_the_book(data: bytes, size: int) -> int:
    """Follow the specification with Python's integers."""
    size = min(size, 4)
    words = [int.from_bytes(data[k : k + size], "little", signed=True) for k in range(0, len(data), size)]
    odd = [output | 1 for output in itertools.islice(splitmix64(), 8192)]
    total = sum(word * odd[k % 1024] * odd[1024 + k // 1024] for k, word in enumerate(words)) % 2**64
    return total - 2**64 if total >= 2**63 else total


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("start", "stop"), [(0, 3500), (3, 20), (34, 35), (0, 1024), (5, 2053)])
def test_on_host_and_device_as_specified(dtype: str, start: int, stop: int) -> None:
    tensor = torch.randn(700, 5).to(DTYPES[dtype])
    other = torch.randn(5, 700).to(DTYPES[dtype]).t()  # its order in memory is another
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[tensor.element_size()]
    arrays = [part.contiguous().view(bits).numpy().reshape(-1)[start:stop] for part in (tensor, other)]
    expected = [by_the_book(array.tobytes(), array.itemsize) for array in arrays]
    parts = [(part, start, stop) for part in (tensor, other)]
    assert on_host(parts).tolist() == expected
    assert on_device(parts).tolist() == expected
    named = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    assert digest(arrays[0].view(named)) == expected[0]


def test_small_models_are_held_whole_and_large_ones_in_turn() -> None:
    assert choose_ranges({0: 600_000, 3: 400_000}, step=7) == {0: (0, 600_000), 3: (0, 400_000)}
    sizes = {0: 600_000, 1: 2_000_000, 4: 5}
    held = [choose_ranges(sizes, step) for step in range(3)]
    assert held[0] == {0: (0, 600_000), 1: (0, 400_000), 4: (0, 0)}
    assert held[1] == {0: (0, 0), 1: (400_000, 1_400_000), 4: (0, 0)}
    assert held[2] == {0: (0, 0), 1: (1_400_000, 2_000_000), 4: (0, 5)}
    assert choose_ranges(sizes, 3) == held[0]
    assert choose_ranges({}, 3) == {}
