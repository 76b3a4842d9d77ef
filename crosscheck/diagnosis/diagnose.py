"""Naming the cause: which known mistake turns every row that disagreed into one that agrees?"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from crosscheck.criterion.elementwise import Compared, compare
from crosscheck.diagnosis.catalogue import CATALOGUE
from crosscheck.rules.inputs import Inputs, one_step
from crosscheck.rules.rule import Flags, Rule
from crosscheck.tolerance import FAIL
from crosscheck.trace.format import PARAM

_SAMPLE = 64  # rows of up to 256 elements each
_ITERATIONS = 8  # of Gauss and Newton; the formulas are nearly linear in each hyperparameter


def take_rows(inputs: Inputs, rows: Any) -> Inputs:
    """Return the first of these rows, repeated up to one size, so that what is compiled for it serves again."""

    def fill(array: NDArray[Any]) -> NDArray[Any]:
        return np.resize(array[rows], (_SAMPLE, *array.shape[1:]))

    return jax.tree.map(fill, inputs)


def diagnose(rule: Rule[Any], flags: Flags, inputs: Inputs) -> list[str]:
    """Return the mistakes, as sentences, each of which explains all these rows: those of the simplest kind that does."""
    # A fitted number can pass for another formula where the format is coarse: these two stand side by side.
    for kinds in ((_wrong_inputs,), (_wrong_formula, _wrong_number)):
        with np.errstate(all="ignore"):  # whatever was recorded may be infinite
            found = list(dict.fromkeys(sentence for kind in kinds for sentence in kind(rule, flags, inputs)))
        if found:
            return found
    return []


def _explains(rule: Rule[Any], flags: Flags, inputs: Inputs) -> bool:
    result: Compared = jax.device_get(compare(rule, flags, inputs))
    agrees = all(bool(np.all(eta <= FAIL)) for eta in result.eta.values())
    return agrees and any(bool(np.any(judged)) for judged in result.judged.values())


def _wrong_inputs(rule: Rule[Any], flags: Flags, inputs: Inputs) -> Iterator[str]:
    """Yield the mistakes that leave the formula right: something that goes into it is wrong."""
    for sentence, its_flags, its_inputs in CATALOGUE[rule.name].inputs(flags, inputs):
        if _explains(rule, its_flags, its_inputs):
            yield sentence


def _wrong_number(rule: Rule[Any], flags: Flags, inputs: Inputs) -> Iterator[str]:
    """Yield the hyperparameters that act as if they were another number, which least squares find."""
    for name in rule.matters(flags):
        here = inputs.hyperparameters[name]
        if not here.any():
            continue
        factor = float(_fit(rule, flags, name, inputs))  # pyright: ignore[reportUnknownArgumentType]
        if not math.isfinite(factor):
            continue
        fitted = replace(inputs, hyperparameters={**inputs.hyperparameters, name: here * factor})
        if _explains(rule, flags, fitted):
            value = float(here[0])
            yield (
                f"{name} is without effect"
                if abs(factor) < 1e-4
                else f"{name} acts as {value * factor:.6g} where the record says {value:.6g} ({factor:.6g} times)"
            )


def _wrong_formula(rule: Rule[Any], flags: Flags, inputs: Inputs) -> Iterator[str]:
    """Yield the wrong formulas that may have been taken for the right one."""
    for sentence, mistaken in CATALOGUE[rule.name].rules(rule, flags):
        if _explains(mistaken, flags, inputs):
            yield sentence


@partial(jax.jit, static_argnums=(0, 1, 2))
def _fit(rule: Rule[Any], flags: Flags, name: str, inputs: Inputs) -> Any:
    """Return the factor that `name` seems to be multiplied by: least squares by Gauss and Newton, from 1 on."""

    def improve(_: Any, factor: Any) -> Any:
        return factor + _newton_step(rule, flags, name, inputs, factor)

    return jax.lax.fori_loop(0, _ITERATIONS, improve, jnp.ones(()))  # pyright: ignore[reportUnknownVariableType]


def _newton_step(rule: Rule[Any], flags: Flags, name: str, inputs: Inputs, factor: Any) -> Any:
    """Return the change of the factor that least squares ask for, with residuals in roundoffs."""

    def outcome(factor: Any) -> Any:
        def row(values: Any, h: Any, counts: Any, absent: Any) -> Any:
            after = one_step(rule, flags, {**h, name: h[name] * factor}, counts, absent, values)
            return jnp.stack([after[n] for n in names])

        return jax.vmap(row)(inputs.values, inputs.hyperparameters, inputs.counts, inputs.absent)

    names = (PARAM, *rule.elementwise(flags))
    move: Callable[[Any], Any]
    exact, move = jax.linearize(outcome, factor)  # pyright: ignore[reportUnknownVariableType]
    recorded = jnp.stack([jnp.asarray(inputs.recorded[n]) for n in names], axis=1)
    before = jnp.stack([jnp.asarray(inputs.values[n]) for n in names], axis=1)
    size = jnp.abs(exact) + jnp.abs(before) + jnp.abs(recorded)
    error = jnp.asarray(inputs.size_error) + jnp.asarray(inputs.result_error)
    weight = 1.0 / (error[:, :, None] * size + jnp.asarray(inputs.lost)[:, :, None])
    residual, slope = (recorded - exact) * weight, move(jnp.ones(())) * weight
    real = jnp.arange(exact.shape[2]) < jnp.asarray(inputs.width)[:, None]
    use = real[:, None, :] & jnp.asarray(inputs.judged)[:, :, None] & jnp.isfinite(residual) & jnp.isfinite(slope)
    residual, slope = jnp.where(use, residual, 0.0), jnp.where(use, slope, 0.0)
    return jnp.sum(residual * slope) / jnp.sum(slope * slope)
