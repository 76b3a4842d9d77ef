"""Gradients and parameters made up for tests: the same numbers for the same seed."""

import random
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

REGIMES = ("typical", "tiny", "denormal", "huge")


def gradient(regime: str, size: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Return a vector of gradients of one regime, 5 % of them zero. Values spread over four decades of either sign.

    Regimes: `typical` (around 1e-2), `tiny` (1e-6), `denormal` (squares below the normal numbers of the
    format), `huge` (squares near its upper end).
    """
    generator = torch.Generator().manual_seed(seed)
    squares = {"denormal": torch.finfo(dtype).tiny ** 0.5 / 8, "huge": torch.finfo(dtype).max ** 0.5 / 256}
    center = {"typical": 1e-2, "tiny": 1e-6, **squares}[regime]
    decades = torch.rand(size, generator=generator, dtype=torch.float64, device="cpu") * 4 - 2
    values = center * 10**decades * torch.randn(size, generator=generator, dtype=torch.float64, device="cpu").sign()
    values[torch.rand(size, generator=generator, device="cpu") < 0.05] = 0.0
    return values.to(dtype)


class Draw:
    """Draws parameters and gradients, one after the other."""

    def __init__(self, seed: int) -> None:
        self._values = torch.Generator().manual_seed(seed)
        self._seeds = random.Random(seed)  # noqa: S311 (no secret)

    def parameter(self, shape: Iterable[int], dtype: torch.dtype) -> Parameter:
        """Return a parameter of standard normal numbers."""
        return Parameter(torch.randn(tuple(shape), generator=self._values, dtype=torch.float64, device="cpu").to(dtype))

    def gradient(self, parameter: Tensor, regime: str) -> Tensor:
        """Return a gradient for a parameter, laid out in memory as it is, as autograd does."""
        values = gradient(regime, parameter.numel(), parameter.dtype, self._seeds.randrange(2**31))
        return torch.empty_like(parameter, requires_grad=False).copy_(values.reshape(parameter.shape))
