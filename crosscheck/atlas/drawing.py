"""Fills the atlas: runs torch.optim and Optax side by side for every combination of options."""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

from crosscheck.atlas.table import Atlas, Cell, Combination, Options, Row
from crosscheck.float64 import float64
from crosscheck.recorder.optimizer.rule import CLAIMABLE
from crosscheck.rules import RULES
from crosscheck.rules.rule import Rule
from crosscheck.testing import observe

IMPLEMENTATIONS: Mapping[str, Options] = {
    "single": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
DTYPES = ("float32", "float64", "bfloat16", "float16")  # torch's names, in the order of the columns
_SIZE, _STEPS = 256, 40  # of a free run


def combinations() -> Iterator[Combination]:
    """Yield every legal product of flags, eps and betas: 28 of SGD, 48 of Adam and AdamW."""
    for maximize, decay in itertools.product((False, True), (0.0, 0.02)):
        for momentum, dampening, nesterov in itertools.product((0.0, 0.9), (0.0, 0.1, 0.9), (False, True)):
            if nesterov and (not momentum or dampening):
                continue  # torch refuses it
            options = {"lr": 0.01, "momentum": momentum, "dampening": dampening, "weight_decay": decay}
            yield Combination("sgd", options | {"nesterov": nesterov, "maximize": maximize})
    for rule, decay in (("adam", 0.0), ("adam", 0.02), ("adamw", 0.02)):
        for amsgrad, maximize, eps, betas in itertools.product(
            (False, True), (False, True), (1e-8, 1e-3), ((0.9, 0.999), (0.7, 0.95))
        ):
            options = {"lr": 0.01, "betas": betas, "eps": eps, "weight_decay": decay}
            yield Combination(rule, options | {"amsgrad": amsgrad, "maximize": maximize})


def draw(
    chosen: Iterable[Combination] | None = None,
    *,
    implementations: Iterable[str] = tuple(IMPLEMENTATIONS),
    dtypes: Iterable[str] = DTYPES,
    progress: bool = False,
) -> Atlas:
    """Fill the table, which takes two to four minutes for all combinations. `progress` counts them on standard error."""
    rows: list[Row] = []
    listed = list(combinations() if chosen is None else chosen)
    for number, combination in enumerate(listed, start=1):
        if progress:
            print(f"\r{number} of {len(listed)}: {combination.label:80.80}", end="", flush=True, file=sys.stderr)
        cells = [
            _cell(combination, implementation, dtype)
            for implementation, dtype in itertools.product(implementations, dtypes)
        ]
        rule = RULES[combination.rule]
        flags, h = rule.flags(combination.options), rule.hyperparameters(combination.options)
        assert rule.stock is not None
        stock = rule.stock(flags, combination.options)
        rows.append(
            Row(
                rule=combination.rule,
                label=combination.label,
                options=combination.options,
                stock_difference=_difference(combination, partial(_follow, stock)),
                composition_difference=_difference(combination, partial(_follow_rule, rule, flags, h)),  # pyright: ignore[reportUnknownArgumentType]
                own=rule.own(flags, h),
                cells=tuple(cells),
            )
        )
    if progress:
        print("\r" + " " * 100 + "\r", end="", file=sys.stderr)
    return Atlas(tuple(rows))


def _cell(combination: Combination, implementation: str, dtype: str) -> Cell:
    def make(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return CLAIMABLE[combination.rule].torch_class(
            parameters, **combination.options, **IMPLEMENTATIONS[implementation]
        )

    report = observe(make, getattr(torch, dtype))
    beyond = report.out_of_range + report.undetermined
    return Cell(implementation, dtype, report.verdict, report.max_eta, beyond, report.elements)


def _free_running() -> tuple[torch.Tensor, torch.Tensor]:
    """Return a start and gradients in float64; the gradients span six decades."""
    generator = torch.Generator().manual_seed(7)
    start = torch.randn(_SIZE, generator=generator, dtype=torch.float64)
    decades = torch.rand(_STEPS, _SIZE, generator=generator, dtype=torch.float64) * 6 - 5
    return start, torch.randn(_STEPS, _SIZE, generator=generator, dtype=torch.float64) * 10**decades


def _difference(combination: Combination, follow: Callable[[Any, Any], Any]) -> float:
    """Return max |p_torch - p_optax| / max |p_torch - p_0| after all steps, where each goes on from its own last step."""
    start, gradients = _free_running()
    parameter = torch.nn.Parameter(start.clone())
    optimizer = CLAIMABLE[combination.rule].torch_class([parameter], **combination.options)
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    with float64():
        theirs = np.asarray(follow(jnp.asarray(start.numpy()), jnp.asarray(gradients.numpy())))
    ours = parameter.detach().numpy()
    return float(np.abs(ours - theirs).max() / np.abs(ours - start.numpy()).max())


@partial(jax.jit, static_argnums=(0, 1))
def _follow_rule(rule: Rule[Any], flags: Any, h: Any, params: Any, gradients: Any) -> Any:
    return _follow(rule.chain(flags, h), params, gradients)


def _follow(chain: optax.GradientTransformation, params: Any, gradients: Any) -> Any:
    """Return the parameters after a step for each of the gradients."""

    def step(carry: Any, gradient: Any) -> tuple[Any, None]:
        params, state = carry
        updates, state = chain.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (params, chain.init(params)), gradients)[0][0]
