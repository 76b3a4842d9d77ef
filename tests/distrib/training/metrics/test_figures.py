"""Figures of a run: its FLOP, their rate, and the share of what the device was measured to do."""

import time

import pytest
import torch

from distrib.optim.precision import Precision, PrecisionConfig
from distrib.training.metrics.device_peak import peak_flop_per_second
from distrib.training.metrics.figures import Compute, peak_memory

CPU = torch.device("cpu")


def test_the_peak_is_measured_once_and_leaves_random_numbers_alone() -> None:
    random, precision = torch.random.get_rng_state(), Precision(PrecisionConfig(mode="no"), CPU, {})
    peak = peak_flop_per_second(CPU, precision)
    assert 1e8 < peak < 1e16
    assert peak_flop_per_second(CPU, precision) == peak, "a second measurement would differ in some digit"
    assert torch.equal(random, torch.random.get_rng_state())


def test_a_busy_moment_does_not_end_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest product took long because of others, which says nothing of larger ones."""

    def disturbed(matrix: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        time.sleep(3e-3 if len(matrix) == 256 else 0)
        return matrix

    monkeypatch.setattr(torch, "mm", disturbed)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 97)  # measured under no other test
    assert peak_flop_per_second(CPU, Precision(PrecisionConfig(mode="no"), CPU, {})) > 1e11


def test_a_run_that_is_faster_than_the_measured_peak_has_no_share_of_it() -> None:
    compute = Compute(flop_per_image=50, peak=1000.0)
    assert compute.rates(20.0)["share_of_peak"] == 1.0
    assert compute.rates(191.7) == {"images_per_second": 191.7, "flop_per_second": 9585.0, "share_of_peak": None}


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
