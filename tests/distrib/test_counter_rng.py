"""Compares the counter-based generator with splitmix64 in plain Python."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distrib import counter_rng

CPU = torch.device("cpu")
MASK = 2**64 - 1

KEYS = st.integers(0, MASK)
INDICES = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=20)


def splitmix64(seed: int, position: int) -> int:
    """Number `position` (from 0) of the published generator, 64 bits."""
    z = (seed + (position + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_published_numbers() -> None:
    """The reference itself gives the numbers that are published for the seed 1234567."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert [splitmix64(1234567, i) for i in range(4)] == published
    assert counter_rng.draw(1234567, torch.arange(4)).tolist() == [number >> 1 for number in published]


@settings(max_examples=40, deadline=None)
@given(key=KEYS, indices=INDICES)
def test_draw_is_splitmix64_without_its_last_bit(key: int, indices: list[int]) -> None:
    drawn = counter_rng.draw(key, torch.tensor(indices))
    assert drawn.tolist() == [splitmix64(key, i) >> 1 for i in indices]
    assert drawn.min() >= 0


@pytest.mark.parametrize("key", [0, 1, 2**63 - 1, 2**63, MASK])
@pytest.mark.parametrize("index", [0, 1, 2**31, 2**32, 2**63 - 1])
def test_draw_at_the_edges(key: int, index: int) -> None:
    assert counter_rng.draw(key, torch.tensor([index])).item() == splitmix64(key, index) >> 1


def test_draw_keeps_the_shape_and_each_entry_stands_alone() -> None:
    index = torch.arange(24).reshape(2, 3, 4)
    whole = counter_rng.draw(7, index)
    assert whole.shape == index.shape
    assert whole.dtype == torch.int64
    assert whole[1, 2, 3] == counter_rng.draw(7, index[1, 2, 3])


def test_keys_differ_in_every_part_and_in_their_order() -> None:
    keys = {counter_rng.key(seed, epoch, stream) for seed in range(12) for epoch in range(12) for stream in range(12)}
    assert len(keys) == 12**3
    assert counter_rng.key(1) not in (counter_rng.key(1, 0), counter_rng.key(0, 1))


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.integers(0, 2**63), min_size=1, max_size=4))
def test_a_key_has_64_bits_and_is_repeatable(parts: list[int]) -> None:
    key = counter_rng.key(*parts)
    assert 0 <= key <= MASK
    assert key == counter_rng.key(*parts)
    assert key != counter_rng.key(*parts[:-1], parts[-1] + 1)


def test_numbers_stay_the_same_from_version_to_version() -> None:
    """A checkpoint of an older version must continue in the same order."""
    assert counter_rng.key(0, 1, 0) == 0x2F101FE21496EA20
    assert counter_rng.permutation(counter_rng.key(0, 1, 0), 8, CPU).tolist() == [0, 1, 5, 3, 2, 7, 6, 4]


@settings(max_examples=40, deadline=None)
@given(key=KEYS, length=st.integers(0, 300))
def test_permutation_holds_every_number_once(key: int, length: int) -> None:
    assert counter_rng.permutation(key, length, CPU).sort().values.tolist() == list(range(length))


@settings(max_examples=40, deadline=None)
@given(keys=st.lists(KEYS, min_size=2, max_size=2, unique=True))
def test_permutations_of_two_keys_differ(keys: list[int]) -> None:
    first, second = (counter_rng.permutation(key, 200, CPU) for key in keys)
    assert (first == second).sum() < 20  # about one by chance


@pytest.mark.parametrize("key", [0, 1, counter_rng.key(0, 1, 0), counter_rng.key(5, 3, 2)])
@pytest.mark.parametrize("bins", [2, 9, 64])
def test_remainders_are_uniform(key: int, bins: int) -> None:
    counts = torch.bincount(counter_rng.draw(key, torch.arange(20_000)) % bins, minlength=bins)
    expected = 20_000 / bins
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < bins + 6 * (2 * bins) ** 0.5


@pytest.mark.parametrize("bit", range(63))
def test_every_bit_is_set_half_the_time(bit: int) -> None:
    share = (counter_rng.draw(counter_rng.key(3), torch.arange(10_000)) >> bit & 1).double().mean().item()
    assert abs(share - 0.5) < 0.03  # six standard deviations


def test_streams_are_not_correlated() -> None:
    one, two = (counter_rng.draw(counter_rng.key(0, 1, stream), torch.arange(10_000)).double() for stream in (1, 2))
    assert abs(torch.corrcoef(torch.stack((one, two)))[0, 1].item()) < 0.06
