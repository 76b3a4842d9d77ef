"""Writes the way of a gradient from backward to the optimizer as a rule: it is unscaled and clipped."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import optax

from crosscheck.rules.rule import Column, Columns, Counts, Hyperparameters, Options, Rule, number
from crosscheck.tolerance import FORMATS
from crosscheck.trace.format import GRAD


@dataclass(frozen=True, slots=True)
class ClipFlags:
    """What the gradient is clipped by."""

    by: Literal["nothing", "norm", "value"] = "nothing"


def clipping(flags: ClipFlags, h: Hyperparameters) -> optax.GradientTransformation:
    """g <- g / loss_scale; then times min(1, clip_norm / (norm + 1e-6)), or clamped at ± clip_value.

    The norm is not elementwise: it is given, that of all unscaled gradients. Sources: torch.amp.GradScaler,
    torch.nn.utils.clip_grad_norm_ (whose 1e-6 `optax.clip_by_global_norm` lacks) and clip_grad_value_.
    """
    parts = [optax.scale(1 / h["loss_scale"])]
    if flags.by == "norm":
        parts.append(optax.scale(jnp.minimum(1.0, h["clip_norm"] / (h["norm"] + h["norm_eps"]))))
    if flags.by == "value":
        parts.append(optax.clip(h["clip_value"]))
    return optax.chain(*parts)


def _flags(options: Options) -> ClipFlags:
    return ClipFlags("norm" if "clip_norm" in options else "value" if "clip_value" in options else "nothing")


def _hyperparameters(options: Options) -> dict[str, float]:
    names = {"nothing": (), "norm": ("clip_norm", "norm", "norm_eps", "norm_error"), "value": ("clip_value",)}
    return {name: number(options, name) for name in ("loss_scale", "world_size", *names[_flags(options).by])}


def _hyperparameters_read(flags: ClipFlags) -> tuple[str, ...]:
    return {"nothing": (), "norm": ("clip_norm",), "value": ("clip_value",)}[flags.by]


def _formula(flags: ClipFlags, h: Mapping[str, float], first: bool) -> tuple[str, ...]:
    del h, first
    clipped = {
        "nothing": (),
        "norm": ("grad = g * min(1, clip_norm / (norm + norm_eps))",),
        "value": ("grad = min(max(g, -clip_value), clip_value)",),
    }[flags.by]
    return (f"{'g' if clipped else 'grad'} = backward / loss_scale", *clipped)


def _norm_error(h: Columns, counts: Counts, scalar_error: Column, beta_error: Column) -> Column:
    """Return the relative error of a norm that torch took, where it clips; see `norm_error`."""
    del counts, beta_error
    if "norm_error" not in h:
        return jnp.zeros_like(scalar_error)
    return jnp.where(h["norm"] > h["clip_norm"], h["norm_error"] * scalar_error, 0.0)


def norm_error(elements: int, unit_roundoff: float, device: str) -> float:
    """Return how far torch's norm may be off, in roundoffs of float32, by the size of the largest tensor.

    On a CPU each of a few lanes adds its squares one after the other in float32, so the error grows with the
    number of elements: measured 6 roundoffs for the 65,536 of this project's largest tensor, 5,900 for 10
    million, 850,000 (5 %) for 300 million. On a GPU a thread adds 128 squares of a chunk of 65,536, and the sums of
    threads and chunks are added in trees (ATen's ForeachReduceOp.cu): some 64 roundoffs at most, of which a sum of
    squares passes half on to the norm; not yet seen on a GPU. A half's norm is itself a half.
    """
    summed = elements / 1024 if device == "cpu" else min(elements / 1024, 64.0)
    return 2 * unit_roundoff / FORMATS["float32"].unit_roundoff + summed


CLIPPING = Rule(
    name="clipping",
    check="clipping",
    moved=GRAD,
    reads="backward",
    formula=_formula,
    complaint="the gradient consumed is not the one that backward left, unscaled and clipped as claimed",
    flags=_flags,
    hyperparameters=_hyperparameters,
    chain=clipping,
    hyperparameters_read=_hyperparameters_read,
    correction_error=_norm_error,
)
