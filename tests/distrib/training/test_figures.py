"""Figures of a run: its FLOP, their rate, and the share of what the device was measured to do."""

import torch

from distrib.optim.precision import Precision, PrecisionConfig
from distrib.training.device_peak import peak_flop_per_second
from distrib.training.figures import Compute, peak_memory

CPU = torch.device("cpu")


def test_the_peak_is_measured_once_and_leaves_random_numbers_alone() -> None:
    random, precision = torch.random.get_rng_state(), Precision(PrecisionConfig(mode="no"), CPU, {})
    peak = peak_flop_per_second(CPU, precision)
    assert 1e8 < peak < 1e16
    assert peak_flop_per_second(CPU, precision) == peak, "a second measurement would differ in some digit"
    assert torch.equal(random, torch.random.get_rng_state())


def test_rates_follow_from_the_speed_in_images() -> None:
    compute = Compute(flop_per_image=50, peak=1000.0)
    assert compute.flop(30) == 1500
    assert compute.rates(8.0) == {"images_per_second": 8.0, "flop_per_second": 400.0, "share_of_peak": 0.4}
    assert set(compute.rates(None).values()) == {None}


def test_a_network_that_could_not_be_counted_has_a_speed_in_images_only() -> None:
    compute = Compute(flop_per_image=None, peak=1000.0)
    assert compute.flop(30) is None
    assert compute.rates(8.0) == {"images_per_second": 8.0, "flop_per_second": None, "share_of_peak": None}


def test_peak_memory_is_in_bytes() -> None:
    assert 2**26 < peak_memory() < 2**44, "torch alone takes some hundred MiB"
