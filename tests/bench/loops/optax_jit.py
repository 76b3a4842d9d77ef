"""JAX and Optax: augmentation, forward, backward and update in one compiled function; images stay in one array."""

from collections.abc import Callable
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.bench import job
from tests.bench.pace import Pace

Weights = dict[str, jax.Array]
_CONVOLUTIONS, _LINEAR = ("0", "2", "4"), ("7", "8")  # as torch names the article's layers


def _weights() -> Weights:
    """Return the network's weights as torch draws them, convolutions as (height, width, in, out) and matrices as (in, out)."""
    state = {name: value.numpy() for name, value in job.network().state_dict().items()}
    order = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
    return {name: jnp.asarray(np.transpose(value, order[value.ndim])) for name, value in state.items()}


def _logits(weights: Weights, images: jax.Array) -> jax.Array:
    """(N, 32, 32, 3) to (N, 10). The flattened features are in another order than torch's, which costs the same."""
    x = images
    for name in _CONVOLUTIONS:
        kernel = weights[f"{name}.weight"]
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = x + weights[f"{name}.bias"]
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = x.reshape(len(x), -1)
    for name in _LINEAR:
        x = x @ weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return x


def _crop(image: jax.Array, corner: jax.Array) -> jax.Array:
    return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (32, 32, 3))


def _augmented(key: jax.Array, pixels: jax.Array) -> jax.Array:
    """Crop out of zeros, flip and normalise (N, 32, 32, 3) uint8."""
    shift_key, flip_key = jax.random.split(key)
    shifts = jax.random.randint(shift_key, (len(pixels), 2), 0, 2 * job.PADDING + 1)
    padded = jnp.pad(pixels, ((0, 0), (job.PADDING,) * 2, (job.PADDING,) * 2, (0, 0)))
    crops = jax.vmap(_crop)(padded, shifts)
    flipped = jax.random.bernoulli(flip_key, 0.5, (len(pixels), 1, 1, 1))
    images = jnp.where(flipped, crops[:, :, ::-1], crops)
    return (images.astype(jnp.float32) / 255 - jnp.array(job.MEAN)) / jnp.array(job.STD)


def main() -> None:
    pace = Pace()
    drawn = job.images()
    pixels, labels = jnp.asarray(drawn.images.numpy()), jnp.asarray(drawn.labels.numpy())
    schedule = optax.cosine_onecycle_schedule(job.EPOCHS * job.STEPS, job.PEAK_LR)
    tx = optax.chain(optax.add_decayed_weights(job.WEIGHT_DECAY), optax.sgd(schedule, job.MOMENTUM, nesterov=True))

    def step(
        weights: Weights, state: optax.OptState, key: jax.Array, index: jax.Array
    ) -> tuple[Weights, optax.OptState, jax.Array]:
        images = _augmented(key, pixels[index])

        def loss(weights: Weights) -> jax.Array:
            losses = optax.softmax_cross_entropy_with_integer_labels(_logits(weights, images), labels[index])
            return losses.mean()

        value, gradient = jax.value_and_grad(loss)(weights)
        updates, state = tx.update(gradient, state, weights)
        return cast(Weights, optax.apply_updates(weights, updates)), state, value

    compiled = cast(Callable[..., tuple[Weights, optax.OptState, jax.Array]], jax.jit(step, donate_argnums=(0, 1)))
    weights, key = _weights(), jax.random.key(0)
    state, random = tx.init(weights), np.random.default_rng(0)
    while pace.lap():
        order = random.permutation(job.BATCH * job.STEPS).reshape(job.STEPS, job.BATCH)
        value = None
        for index in order:
            key, drawn_key = jax.random.split(key)
            weights, state, value = compiled(weights, state, drawn_key, index)
        jax.block_until_ready(value)


if __name__ == "__main__":
    main()
