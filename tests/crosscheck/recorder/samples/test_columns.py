"""The chosen elements of a tensor are where they are said to be, in whatever order the tensor lies in memory."""

import pytest
import torch
from torch.nn import Parameter

from crosscheck.recorder.samples.columns import level, spread, whole


def test_small_tensors_are_covered_and_large_ones_alike() -> None:
    sizes = [10, 1000, 50_000, 64, 2_000_000]
    height = level(sizes, 4000)
    assert sum(min(size, height) for size in sizes) in range(3990, 4001)
    assert level([10, 20], 1000) == 20
    assert level([10, 20], 1) == 1
    assert level([], 5) == 1


@pytest.mark.parametrize("turn", [None, 0, 1, 7])
@pytest.mark.parametrize("count", [1, 2, 7, 100, 399])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(400),
        torch.randn(20, 20).t(),
        torch.randn(2, 10, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(20, 40)[:, ::2],
        torch.randn(20, 1, 20).transpose(0, 2),
    ],
    ids=["plain", "transposed", "channels last", "gaps", "one row"],
)
def test_the_chosen_elements_are_at_the_positions_that_are_told(
    tensor: torch.Tensor, count: int, turn: int | None
) -> None:
    columns = spread(Parameter(tensor), count, turn)
    positions = columns.positions
    assert positions.unique().numel() == positions.numel() == columns.count
    assert count - 1 <= columns.count <= 2 * count
    views, _ = columns.views(tensor)
    assert torch.equal(torch.cat(views), tensor.flatten()[positions])
    assert torch.equal(columns.ascending, positions.sort().values)


def test_a_whole_tensor_in_another_order_of_memory() -> None:
    tensor = torch.randn(2, 10, 4, 5).to(memory_format=torch.channels_last)
    columns = whole(Parameter(tensor))
    views, are_views = columns.views(tensor)
    assert are_views
    assert torch.equal(columns.sort(torch.cat(views)[None]), tensor.flatten()[None])
