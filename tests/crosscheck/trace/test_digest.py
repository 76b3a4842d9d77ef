"""The digest is what docs/trace.md says, wherever it is computed."""

import itertools
from collections.abc import Iterator

import ml_dtypes
import numpy as np
import pytest
import torch

from crosscheck.recorder.samples.digest_ranges import DigestRanges, Range
from crosscheck.recorder.samples.digests import Digester, as_integers
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
    step = 4 if size == 8 else 8  # bytes of a word
    data = data.ljust(-(-len(data) // step) * step, b"\0")
    words = [int.from_bytes(data[k : k + step], "little", signed=True) for k in range(0, len(data), step)]
    odd = [output | 1 for output in itertools.islice(splitmix64(), 8192)]
    total = sum(word * odd[k % 256] * odd[256 + k // 256] for k, word in enumerate(words)) % 2**64
    return total - 2**64 if total >= 2**63 else total


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("covered", [(0, 3500), (1024, 2048), (2048, 3500), (0, 1), (5, 2053)])
def test_as_specified(dtype: str, covered: tuple[int, int]) -> None:
    tensor = torch.randn(700, 5).to(DTYPES[dtype])
    other = torch.randn(5, 700).to(DTYPES[dtype]).t()  # it is dense, and read as it lies in memory
    gaps = torch.randn(700, 10).to(DTYPES[dtype])[:, ::2]
    parts = [tensor, other, gaps]
    in_memory = [tensor, other.t(), gaps.contiguous()]
    bits = {8: torch.int64, 4: torch.int32, 2: torch.int16}[tensor.element_size()]
    arrays = [part.view(bits).numpy().reshape(-1)[slice(*covered)] for part in in_memory]
    expected = [by_the_book(array.tobytes(), array.itemsize) for array in arrays]
    digests = Digester(
        [((number, "param"), as_integers(part, covered)[0]) for number, part in enumerate(parts)]
    ).compute()
    assert digests.values.tolist() == expected
    named = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    assert digest(arrays[0].view(named)) == expected[0]


def test_small_models_are_covered_whole_and_large_ones_in_turn() -> None:
    """Parameters come first; what they leave of the bytes is for the state."""

    def covered(turn: int, *sizes: int) -> list[Range]:
        chosen = DigestRanges(digest_bytes=2**20, turn=turn)
        chosen.include(
            [((number, slot), torch.empty(size)) for slot in ("param", "m") for number, size in enumerate(sizes)]
        )
        return list(chosen.ranges.values())

    assert covered(7, 60_000, 40_000) == [(0, 60_000), (0, 40_000)] * 2
    large = [covered(turn, 100_000, 300_000) for turn in range(4)]
    assert large[0] == [(0, 98_304), (0, 98_304), (0, 32_768), (0, 32_768)]
    assert large[1] == [(98_304, 100_000), (98_304, 196_608), (32_768, 65_536), (32_768, 65_536)]
    assert [ranges[1] for ranges in large[2:]] == [(196_608, 294_912), (294_912, 300_000)]
    assert covered(3, 5) == [(0, 5), (0, 5)]
    assert covered(3) == []
