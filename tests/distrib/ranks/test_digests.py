"""Equal bytes have an equal digest, and any others have another one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distrib.ranks.digests import digests
from tests.distrib.test_counter_rng import splitmix64

DTYPES = (
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)
CPU = torch.device("cpu")


def digest(tensor: Tensor) -> int:
    return int(digests([tensor], CPU)[0])


def sample(dtype: torch.dtype, *shape: int) -> Tensor:
    return torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(7)).to(dtype)


def flipped(tensor: Tensor, bit: int) -> Tensor:
    """A copy whose bit number `bit`, counted over its bytes in C order, is the other one."""
    data = tensor.contiguous().view(-1).view(torch.uint8).clone()
    data[bit // 8] ^= 1 << bit % 8
    return data.view(tensor.dtype).view(tensor.shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (4, 5)], ids=str)
def test_every_flipped_bit_changes_the_digest(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = sample(dtype, *shape)
    whole = [digest(flipped(tensor, bit)) for bit in range(tensor.nbytes * 8)]
    assert digest(tensor) not in whole
    assert len(set(whole)) == len(whole)


@pytest.mark.parametrize("dtype", DTYPES[:-1], ids=str)
def test_any_two_elements_swapped_change_the_digest(dtype: torch.dtype) -> None:
    """Powers of two differ in few bits, which a sum times a multiplier could lose."""
    values = torch.arange(24) if dtype == torch.uint8 else 2 ** torch.arange(14).repeat(2)[:24]
    tensor = values.to(dtype)
    for i in range(24):
        for j in range(i):
            swapped = tensor.clone()
            swapped[i], swapped[j] = tensor[j], tensor[i]
            assert (digest(swapped) == digest(tensor)) is bool(tensor[i] == tensor[j]), (i, j)


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=40), other=st.binary(max_size=40))
def test_the_digest_tells_bytes_of_one_length_apart(data: bytes, other: bytes) -> None:
    other = (other + bytes(len(data)))[: len(data)]
    one, two = (torch.tensor(list(each), dtype=torch.uint8) for each in (data, other))
    assert (digest(one) == digest(two)) is (data == other)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_digest_does_not_depend_on_how_the_tensor_lies_in_memory(dtype: torch.dtype) -> None:
    tensor = sample(dtype, 4, 3, 5, 5)
    odd = torch.empty(tensor.numel() + 1, dtype=dtype)[1:].view(tensor.shape).copy_(tensor)
    wide = torch.empty(4, 3, 5, 10, dtype=dtype)[..., ::2].copy_(tensor)
    same = [tensor.clone(), tensor.to(memory_format=torch.channels_last), odd, wide, tensor.requires_grad_(False)]
    assert {digest(each) for each in same} == {digest(tensor)}
    assert digest(tensor.transpose(0, 1)) != digest(tensor)
    assert digest(torch.nn.Parameter(tensor.float())) == digest(tensor.float())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_bits_count_not_values(dtype: torch.dtype) -> None:
    """Zeros of both signs are equal and no NaN equals itself; payloads and signs of NaN are bits like others."""
    nan = torch.tensor([math.nan], dtype=dtype)
    assert digest(nan) == digest(nan.clone())
    assert len({digest(each) for each in (nan, flipped(nan, 0), flipped(nan, nan.nbytes * 8 - 1))}) == 3
    assert digest(torch.tensor([0.0], dtype=dtype)) != digest(torch.tensor([-0.0], dtype=dtype))


def test_each_tensor_stands_alone() -> None:
    tensors = [sample(torch.float32, 3), sample(torch.float16, 0), sample(torch.int64, 2, 2), sample(torch.float32)]
    assert digests(tensors, CPU).tolist() == [digest(tensor) for tensor in tensors]
    assert digests(tensors[::-1], CPU).tolist() == [digest(tensor) for tensor in tensors[::-1]]


def test_large_tensors_are_added_up_as_small_ones_are() -> None:
    """They take another way, and so does a large one among many small ones."""
    large, small = sample(torch.float32, 40_001), sample(torch.float16, 5)
    assert digests([large, *[small] * 9], CPU).tolist() == [digest(large), *[digest(small)] * 9]


@settings(max_examples=40, deadline=None)
@given(words=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9))
def test_the_digest_is_a_sum_of_splitmix64(words: list[int]) -> None:
    expected = sum(splitmix64(word % 2**64, position) for position, word in enumerate(words)) % 2**64
    assert digest(torch.tensor(words, dtype=torch.int64)) % 2**64 == expected
