"""The trainer's network in JAX: three convolutions, each with a max-pooling behind it, and two linear layers.

The winner of each pooling window is given rather than found. A window whose two largest elements agree to within
rounding has another winner in another arithmetic, and there the gradient jumps; with the winners given it does not.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

CONVOLUTIONS = ("0", "2", "4")  # torch's names: positions in its Sequential
POOLINGS = ("1", "3", "5")
LINEAR = ("7", "8")


class Images(NamedTuple):
    """n images with what one forward and backward pass needs beside the parameters."""

    pixels: Any  # (n, H, W, C) float64, normalised
    targets: Any  # (n, classes) float64: the probabilities that cross-entropy asks for
    weights: Any  # (n,) float64: of each image's cross-entropy in the loss
    winners: Any  # for each pooling (n, H/2, W/2, C), 0 to 3: 2 dy + dx of the element that won its window
    signs: Any  # for each layer as many as it stores numbers: 1 or -1, which way they are off; 0 is not at all


class Arithmetic(NamedTuple):
    """How far the network's stored numbers may be off."""

    roundoff: Any  # relative to the number
    floor: Any  # absolute, of gradients only
    loss_scale: Any  # what gradients are multiplied by while they are stored


class Stored(NamedTuple):
    """A format, as far as it rounds what is not too large for it."""

    mantissa: int  # bits behind the binary point
    smallest: float = 0.0  # positive number; 0 where nothing comes near it


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _store(x: Array, loss_scale: Any, stored: Stored) -> Array:
    """Round a number, and on the way back its gradient.

    No model of random errors would do: while weights are small, all images of a class have nearly the same gradient at
    their logits and so the same rounding error, which adds up.
    """
    del loss_scale
    return _round(x, stored)


def _round(x: Array, stored: Stored) -> Array:
    rounded = jax.lax.reduce_precision(x, 11, stored.mantissa)  # XLA may drop a conversion there and back
    if not stored.smallest:
        return rounded
    subnormal = jnp.abs(x) < stored.smallest * 2**stored.mantissa
    return jnp.where(subnormal, jnp.round(x / stored.smallest) * stored.smallest, rounded)


def _store_forward(x: Array, loss_scale: Any, stored: Stored) -> tuple[Array, Any]:
    return _store(x, loss_scale, stored), loss_scale


def _store_backward(stored: Stored, loss_scale: Any, gradient: Array) -> tuple[Array, None]:
    return _round(gradient * loss_scale, stored) / loss_scale, None


_store.defvjp(_store_forward, _store_backward)


@partial(jax.jit, static_argnums=3)
def differentiate(
    parameters: Mapping[str, Any], images: Images, arithmetic: Arithmetic, format_: Stored, given: Any
) -> tuple[Mapping[str, Array], list[Array]]:
    """Return the gradients of the weighted sum of cross-entropies, and what each pooling chooses from: (n, H/2, W/2, 4, C).

    `parameters` have torch's names and layouts. Stored numbers are rounded to the format and off by `arithmetic`,
    forward and backward alike, as `images.signs` says. With `given` false, for tests of the twin itself,
    the winners are the largest elements, the first of equals as in torch.
    """

    def loss(parameters: Mapping[str, Any]) -> tuple[Array, list[Array]]:
        windows: list[Array] = []
        stored: list[Array] = []

        def store(x: Array) -> Array:
            x = _store(x, arithmetic.loss_scale, format_)
            stored.append(x)
            return x * (1.0 + arithmetic.roundoff * images.signs[len(stored) - 1])

        x = images.pixels
        for winners, name in zip(images.winners, CONVOLUTIONS, strict=True):
            windows.append(_windows(_convolve(x, parameters[f"{name}.weight"]) + parameters[f"{name}.bias"]))
            won = jnp.where(given, winners, jnp.argmax(windows[-1], axis=3))[:, :, :, None]
            x = store(jnp.where(won == jnp.arange(4)[:, None], windows[-1], 0.0).sum(axis=3))
        x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # torch flattens (C, H, W)
        for name in LINEAR:
            x = store(x @ parameters[f"{name}.weight"].T + parameters[f"{name}.bias"])
        losses = -jnp.sum(images.targets * jax.nn.log_softmax(x), axis=1)
        # Linear in what is stored: its gradient there is the constant error that is meant.
        absolute = sum(jnp.sum(signs * x) for signs, x in zip(images.signs, stored, strict=True))
        return jnp.sum(images.weights * losses) + arithmetic.floor * absolute, windows

    return jax.grad(loss, has_aux=True)(parameters)  # pyright: ignore[reportUnknownVariableType]


def _convolve(x: Array, weight: Any) -> Array:
    kernel = jnp.transpose(weight, (2, 3, 1, 0))  # torch has (out, in, height, width)
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _windows(x: Array) -> Array:
    """Cut images into the windows of a pooling: (n, H, W, C) -> (n, H/2, W/2, 4, C)."""
    n, height, width, channels = x.shape
    x = x.reshape(n, height // 2, 2, width // 2, 2, channels).swapaxes(2, 3)
    return x.reshape(n, height // 2, width // 2, 4, channels)
