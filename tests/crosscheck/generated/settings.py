"""Settings that people train with, drawn from a seed: rule, options, format, implementation, parameters and gradients."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

STEPS = 10
SHAPES = {"weight": (12, 20), "bias": (40,), "gain": (130,)}
"""Each tensor has fewer elements than a record samples at every step, so that every record has all of them."""
FORMATS = {
    torch.float32: 5,
    torch.float64: 1,
    torch.bfloat16: 2,
    torch.float16: 2,
}
"""How often each format is drawn."""
IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "single": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
CLASSES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


@dataclass(frozen=True)
class Setting:
    """What a run trains with."""

    seed: int
    rule: str
    options: dict[str, Any]
    dtype: torch.dtype
    implementation: str
    sizes: dict[str, float]
    """The typical size of a gradient's elements, by tensor."""
    factor: float
    """By which the learning rate changes after every step."""
    every_step_in_full: bool
    """Whether each step is recorded in full; otherwise the record is the default one."""
    second_group: dict[str, Any] = field(default_factory=dict[str, Any])
    """The options of the vectors, where they differ from those of the matrix."""

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={_shown(value)}" for name, value in self.options.items())
        sizes = "/".join(f"{size:.0e}" for size in self.sizes.values())
        return f"{self.rule}({shown}) {self.implementation} {str(self.dtype)[6:]}, gradients {sizes}, lr x {self.factor:g} a step"

    def parameters(self) -> dict[str, Parameter]:
        """Return the parameters as layers start with them: small weights, a bias near zero, a gain near one."""
        generator = torch.Generator().manual_seed(self.seed)

        def normal(name: str) -> Tensor:
            return torch.randn(SHAPES[name], generator=generator, dtype=torch.float64)

        start = {"weight": 0.2 * normal("weight"), "bias": 0.01 * normal("bias"), "gain": 1 + 0.1 * normal("gain")}
        return {name: Parameter(values.to(self.dtype)) for name, values in start.items()}

    def gradient(self, name: str, step: int) -> Tensor:
        """Return the gradient of a tensor at a step: two decades of sizes, either sign, a few exact zeros."""
        generator = torch.Generator().manual_seed(self.seed * 1000 + step * 10 + list(SHAPES).index(name))
        shape = SHAPES[name]
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        values *= self.sizes[name] * 10 ** (torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1)
        values[torch.rand(shape, generator=generator) < 0.05] = 0.0
        return values.to(self.dtype)

    def groups(self, parameters: dict[str, Parameter]) -> list[dict[str, Any]]:
        """Return the parameter groups: the matrix, and the vectors."""
        weight, *vectors = parameters.values()
        return [{"params": [weight]}, {"params": vectors, **self.second_group}]

    def all_options(self) -> dict[str, Any]:
        """Return the options for the class of torch."""
        return {**self.options, **IMPLEMENTATIONS[self.implementation]}


def draw_setting(draw: random.Random, seed: int, *, hundredth: bool = False) -> Setting:
    """Draw a setting. `hundredth`: the learning rate is a hundredth of what was drawn."""
    rule = draw.choices(["sgd", "adam", "adamw"], [3, 3, 4])[0]
    options = {"lr": _log_uniform(draw, 1e-6, 1.0), **(_sgd(draw) if rule == "sgd" else _adam(draw))}
    if hundredth:
        options["lr"] /= 100
    dtype = draw.choices(list(FORMATS), list(FORMATS.values()))[0]
    typical = _log_uniform(draw, 1e-5 if dtype is torch.float16 else 1e-7, 1.0)
    sizes = {name: typical * _log_uniform(draw, 0.1, 10.0) for name in SHAPES}
    second: dict[str, Any] = draw.choice([{}, {"weight_decay": 0.0}, {"lr": options["lr"] / 2}])
    return Setting(
        seed=seed,
        rule=rule,
        options=options,
        dtype=dtype,
        implementation=draw.choice(list(IMPLEMENTATIONS)),
        sizes=sizes,
        factor=draw.choice([1.0, 0.8, 1.1]),
        every_step_in_full=draw.random() < 0.5,
        second_group=second,
    )


def _sgd(draw: random.Random) -> dict[str, Any]:
    momentum = draw.choice([0.0, 0.5, 0.9, 0.95, 0.99])
    nesterov = bool(momentum) and draw.random() < 0.4
    return {
        "momentum": momentum,
        "nesterov": nesterov,
        "dampening": draw.choice([0.0, 0.0, 0.1, 0.4]) if momentum and not nesterov else 0.0,
        "weight_decay": _decay(draw),
        "maximize": draw.random() < 0.15,
    }


def _adam(draw: random.Random) -> dict[str, Any]:
    return {
        "betas": (draw.choice([0.8, 0.9, 0.95]), draw.choice([0.95, 0.98, 0.99, 0.999, 0.9999])),
        "eps": draw.choice([1e-8, 1e-8, 1e-6, 1e-5, 1e-10]),
        "weight_decay": _decay(draw),
        "amsgrad": draw.random() < 0.25,
        "maximize": draw.random() < 0.15,
    }


def _decay(draw: random.Random) -> float:
    return 0.0 if draw.random() < 0.25 else round(_log_uniform(draw, 1e-5, 0.3), 6)


def _log_uniform(draw: random.Random, least: float, most: float) -> float:
    return float(f"{math.exp(draw.uniform(math.log(least), math.log(most))):.3g}")


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
