"""Which mistakes a generator can plant in which setting, and how it draws one."""

import random
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

import torch

from tests.crosscheck.generated import mistakes as m
from tests.crosscheck.generated.mistaken import HALVES, Mistake, Planted
from tests.crosscheck.generated.settings import SHAPES, Setting

Kind = Callable[[random.Random, Setting], Planted]
"""Draws a mistake of one kind for a setting."""

FORMULAS: dict[str, Mapping[str, tuple[str, ...]]] = {
    "sgd": {
        "": ("unscaled twice",),
        "momentum": ("buffer times lr", "nesterov unasked"),
        "nesterov": ("nesterov missing", "nesterov twice", "nesterov with the old buffer"),
        "dampening": ("dampening missing", "buffer from zero", "dampening on the buffer",
                      "dampening on both", "dampening is the momentum"),
        "weight_decay": ("decay missing", "decay decoupled", "decay on new parameters", "decay twice", "decay times lr"),
        "momentum weight_decay": ("decay after momentum",),
        "maximize": ("maximize ignored",),
        "maximize weight_decay": ("maximize after decay", "maximize by negative lr"),
    },
    "adam": {
        "": (
            "eps in the root",
            "eps squared in the root",
            "eps before the correction",
            "eps missing",
            "first correction missing",
            "second correction missing",
            "both corrections missing",
            "root of the correction missing",
            "beta2 off in the correction",
            "betas swapped",
            "1 - beta1 missing",
            "1 - beta2 missing",
            "second moment of |g|",
            "step one ahead",
            "step not counted",
        ),
        "amsgrad": ("amsgrad corrects first", "amsgrad keeps the last", "amsgrad one step late", "amsgrad unused"),
        "weight_decay": ("decay of the other kind", "decay missing", "decay twice", "decay times lr", "decay after moments"),
        "maximize": ("maximize ignored",),
        "maximize weight_decay": ("maximize after decay",),
    },
}  # fmt: skip
FORMULAS["adamw"] = {
    **FORMULAS["adam"],
    "weight_decay": ("decay of the other kind", "decay missing", "decay twice",
                     "decay not times lr", "decay times lr", "decay on new parameters"),
    "maximize weight_decay": ("maximize flips decay",),
}  # fmt: skip
"""Mistakes of `tests.crosscheck.faulty`, by the options that must be in use."""


def draw_mistakes(draw: random.Random, setting: Setting, number: int) -> tuple[Planted, ...]:
    """Draw so many different mistakes for a setting."""
    kinds = list(_kinds(setting))
    drawn: dict[str, Planted] = {}
    while len(drawn) < number:
        planted = draw.choice(draw.choice(kinds))(draw, setting)
        drawn[planted.name] = planted
    return tuple(drawn.values())


def _kinds(setting: Setting) -> Iterable[list[Kind]]:
    """Yield the kinds of mistakes by family. Each family is drawn as often as any other."""
    yield [_hyperparameter]
    yield [_formula]
    yield [
        _same(name, getattr(m, name))
        for name in ("gradient_stale", "gradient_kept", "gradient_clamped", "gradient_rounded")
    ] + [_scaled]
    yield [_same(name, getattr(m, name)) for name in _rounding(setting)]
    yield [_same(name, getattr(m, name)) for name in _state(setting)]
    yield [_same(name, getattr(m, name)) for name in ("element_frozen", "last_block_forgotten", "elements_swapped")] + [
        _frozen_tensor
    ]
    yield [_same(name, getattr(m, name), "between") for name in _between(setting)]
    if setting.rule != "sgd":  # which has no count of steps: what it starts from may be left of an earlier run
        yield [_same(name, getattr(m, name), "start") for name in ("state_starts_at_one", "count_starts_at_one")]
    if setting.options["weight_decay"]:
        yield [
            _same(name, getattr(m, name))
            for name in ("decay_constant", "decay_by_sign", "decay_of_last_parameter", "decay_at_first_only")
        ]
    flags = [name for name in ("maximize", "nesterov") if setting.options.get(name)]
    if flags:
        yield [_same(f"{name} is off", partial(m.flag, name=name)) for name in flags]


def _rounding(setting: Setting) -> list[str]:
    names = ["truncated", "param_rounded", "change_rounded"]
    if setting.dtype in HALVES:
        names += ["rounded_at_random"]
    if _has_state(setting):
        names += ["state_rounded"]
    return names


def _state(setting: Setting) -> list[str]:
    names = ["moved_twice", "frozen", "filled"]
    if setting.factor != 1:
        names += ["rate_one_step_late"]
    if _has_state(setting):
        names += ["state_not_kept"]
    if setting.rule != "sgd":
        names += ["count_twice"]
    return names


def _between(setting: Setting) -> list[str]:
    moved = ["param_nudged_between", "param_clamped_between"]
    return [*moved, "state_scaled_between", "state_reset_between"] if _has_state(setting) else moved


def _has_state(setting: Setting) -> bool:
    return setting.rule != "sgd" or bool(setting.options["momentum"])


def _same(name: str, mistake: Mistake, when: Literal["step", "start", "between"] = "step") -> Kind:
    """Return a kind of mistake that has nothing to draw but where it is."""

    def kind(draw: random.Random, setting: Setting) -> Planted:
        del setting
        return Planted(name.replace("_", " "), mistake, when, **_where(draw))

    return kind


def _where(draw: random.Random) -> dict[str, Any]:
    return {
        "tensor": draw.randrange(len(SHAPES)) if draw.random() < 0.25 else None,
        "since": draw.choice([2, 4]) if draw.random() < 0.2 else 1,
    }


def _hyperparameter(draw: random.Random, setting: Setting) -> Planted:
    numbers = [
        "lr",
        *(["beta1", "beta2", "eps"] if setting.rule != "sgd" else ["momentum", "dampening"]),
        "weight_decay",
    ]
    name = draw.choice([name for name in numbers if setting.options.get(name, 1.0)])
    error = 10 ** draw.uniform(-5, 0)
    factor = (1 - error) if draw.random() < 0.5 else 1 + error
    planted = partial(m.hyperparameter, name=name, factor=factor)
    return Planted(f"{name} x {factor:.6g}", planted, wrong={name: factor}, **_where(draw))


def _formula(draw: random.Random, setting: Setting) -> Planted:
    faults = [
        fault
        for needs, named in FORMULAS[setting.rule].items()
        if all(setting.options[option] for option in needs.split())
        for fault in named
    ]
    fault = draw.choice(faults)
    return Planted(fault, partial(m.formula, fault=fault), **_where(draw))


def _scaled(draw: random.Random, setting: Setting) -> Planted:
    factor = draw.choice([1 / 1024, 0.5, 0.9, 0.99, 2.0])
    if setting.dtype is torch.float16:
        factor = max(factor, 0.5)
    return Planted(f"gradient x {factor:g}", partial(m.gradient_times, factor=factor), **_where(draw))


def _frozen_tensor(draw: random.Random, setting: Setting) -> Planted:
    del setting
    return Planted("tensor frozen", m.frozen, tensor=draw.randrange(len(SHAPES)))
