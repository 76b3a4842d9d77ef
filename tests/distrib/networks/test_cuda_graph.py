"""Tests what surrounds the capture of a network.

That replaying it trains as launching it does is for a GPU: tests/end_to_end/test_gpu.py.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distrib.errors import BadInput
from distrib.networks.cuda_graph import capture, expect_capturable
from tests.networks import drawn

IMAGES = torch.ones(4, 3, 32, 32)


def warm_up_only(network: nn.Module, sample: tuple[Tensor, ...]) -> nn.Module:
    """What torch does before it captures."""
    for _ in range(3):
        network(*sample).sum().backward()
    return network


@pytest.fixture
def graphed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    return lambda function: monkeypatch.setattr(torch.cuda, "make_graphed_callables", function)


def test_the_warm_up_leaves_the_running_statistics(graphed: Callable[[Any], None]) -> None:
    graphed(warm_up_only)
    network = drawn(10)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    capture(network.eval(), IMAGES, nullcontext())
    assert network.training, "the passes of training are captured"
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("error", [RuntimeError("operation not permitted when stream is capturing"), AssertionError()])
def test_what_cannot_be_captured_is_said_in_one_line(graphed: Callable[[Any], None], error: Exception) -> None:
    def fails(*_: object) -> None:
        raise error

    graphed(fails)
    with pytest.raises(
        BadInput, match=r"^training\.cuda_graph = true: the network cannot be captured .*; leave it out$"
    ) as caught:
        capture(drawn(10), IMAGES, nullcontext())
    assert f"{type(error).__name__}: {error}" in str(caught.value)


def test_no_graph_without_a_gpu() -> None:
    with pytest.raises(BadInput, match="need an NVIDIA GPU, and this run is on cpu"):
        expect_capturable(torch.device("cpu"))
    expect_capturable(torch.device("cuda", 0))
