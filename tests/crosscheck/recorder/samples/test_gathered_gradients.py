"""The recorded elements of a gradient are those at the sample's positions, however the gradient lies in memory."""

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from crosscheck.recorder.samples.columns import Columns, spread, whole
from crosscheck.recorder.samples.reader import SampleReader
from crosscheck.recorder.samples.snapshot import Sample

SHAPE = (4, 6, 3, 5)
NUMEL = 4 * 6 * 3 * 5


class _Subclass(Tensor):
    """A tensor of a class of its own, which may have its elements elsewhere."""


def _negated() -> Tensor:
    """Return a view whose elements torch negates when it reads them."""
    return torch.randn(*SHAPE, dtype=torch.complex64).conj().imag


def _zero() -> Tensor:
    """Return a gradient that torch knows to be zero, for which it takes no memory."""
    parameter = Parameter(torch.ones(SHAPE))
    torch.sgn(parameter).sum().backward()
    assert parameter.grad is not None
    assert parameter.grad.data_ptr() == 0
    return parameter.grad


GRADIENTS = {
    "in C order": lambda: torch.randn(SHAPE),
    "within a larger tensor": lambda: torch.randn(3, *SHAPE)[1],
    "channels last": lambda: torch.randn(SHAPE).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(SHAPE[::-1]).permute(3, 2, 1, 0),
    "gaps": lambda: torch.randn(*SHAPE[:3], 10)[..., ::2],
    "expanded": lambda: torch.randn(()).expand(SHAPE),
    "negated": _negated,
    "known to be zero": _zero,
    "a subclass": lambda: torch.randn(SHAPE).as_subclass(_Subclass),
    "bfloat16": lambda: torch.randn(SHAPE, dtype=torch.bfloat16),
    "float16": lambda: torch.randn(SHAPE, dtype=torch.float16),
    "float64": lambda: torch.randn(SHAPE, dtype=torch.float64),
}


@pytest.mark.parametrize("chosen", ["whole", "spread"])
@pytest.mark.parametrize("parameter_in", [torch.contiguous_format, torch.channels_last], ids=["plain", "channels last"])
@pytest.mark.parametrize("kind", GRADIENTS)
def test_elements_are_those_of_the_positions(kind: str, parameter_in: torch.memory_format, chosen: str) -> None:
    gradient, parameter = GRADIENTS[kind](), Parameter(torch.zeros(SHAPE).to(memory_format=parameter_in))
    columns = whole(parameter) if chosen == "whole" else spread(parameter, 40, 3)
    ((numbers, vector),) = _reader({0: parameter}, {0: columns}).gather([gradient]).chunks
    assert numbers == (0,)
    assert vector.dtype == gradient.dtype
    assert torch.equal(vector, gradient.resolve_neg().flatten()[columns.positions])


def test_gradients_of_several_kinds_are_joined_by_dtype() -> None:
    names = ["in C order", "gaps", "bfloat16", "float64", "channels last"]
    parameters = {number: Parameter(torch.zeros(SHAPE)) for number in range(6)}
    columns = {number: spread(parameter, 20, number) for number, parameter in parameters.items()}
    gradients = [*(GRADIENTS[name]() for name in names), None]
    found: dict[int, Tensor] = {}
    for numbers, vector in _reader(parameters, columns).gather(gradients).chunks:
        sizes = [columns[number].count for number in numbers]
        found |= dict(zip(numbers, torch.split(vector, sizes), strict=True))
    assert sorted(found) == [0, 1, 2, 3, 4]
    for number, gradient in enumerate(gradients[:5]):
        assert gradient is not None
        assert torch.equal(found[number], gradient.flatten()[columns[number].positions])


@pytest.mark.parametrize("shape", [(2, 3), (NUMEL * 1000,)])
def test_a_tensor_of_another_size_is_not_read_beyond_its_memory(shape: tuple[int, ...]) -> None:
    """A parameter may have grown since its moving average, or its gradient, was made."""
    parameter = Parameter(torch.zeros(NUMEL * 1000))
    reader = _reader({0: parameter}, {0: spread(parameter, 40, 3)})
    if torch.Size(shape).numel() < parameter.numel():
        with pytest.raises((IndexError, RuntimeError)):
            reader.gather([torch.ones(shape)])
    else:
        assert bool((reader.gather([torch.ones(shape)]).chunks[0][1] == 1).all())


def test_memory_that_was_freed_is_not_read() -> None:
    parameter, gradient = Parameter(torch.zeros(NUMEL)), torch.ones(NUMEL)
    gradient.untyped_storage().resize_(0)
    with pytest.raises(RuntimeError):
        _reader({0: parameter}, {0: spread(parameter, 40, 3)}).gather([gradient])


def test_copies_stay_as_they_are_when_the_gradients_change() -> None:
    parameter, gradient = Parameter(torch.zeros(NUMEL)), torch.ones(NUMEL)
    gathered = _reader({0: parameter}, {0: spread(parameter, 40, 3)}).gather([gradient])
    gradient.zero_()
    assert bool((gathered.chunks[0][1] == 1).all())


def _reader(parameters: dict[int, Parameter], columns: dict[int, Columns]) -> SampleReader:
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    groups = {number: (parameter, 0) for number, parameter in parameters.items()}
    return SampleReader(optimizer, groups, Sample(columns, None, False), {})
