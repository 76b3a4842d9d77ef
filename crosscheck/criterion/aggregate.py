"""The aggregate: which error of a hyperparameter, common to all elements, would explain what is left of a record best.

    c_h = sum of w slope_h residual / sum of w slope_h²,   slope_h = d exact / d log h,   w = 1 / (slack + bound)²

is the least-squares estimate of the relative error of h (of 1 - b for a decay b). One element may say little of a
weight decay at a small rate; a hundred thousand say much, because rounding goes up and down and the error does not.

What correct arithmetic can make of c_h is bounded, not estimated: storing errors are as large as they can be and alike
within a row, but independent between rows, unless the format or the row makes them alike; errors of the change, of the
coefficient of the number before and of the hyperparameters themselves are alike everywhere. docs/criterion.md derives it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from crosscheck.rules.arrays import Array
from crosscheck.rules.inputs import Inputs

_DEVIATIONS = 4.0
"""How many times the root of the summed squares of the rows' largest storing errors c may be off. A row's error is at
most that, and as a rule a tenth of it."""
_ROUNDOFFS = 2.0
"""How many roundoffs all elements may be off alike in their change, and a hyperparameter by itself."""
_UNIFORM = 8.0
"""Changes that differ by no more than so many times what storing may cost are rounded alike."""
_DITHERED = 4.0
"""A change is used if it is so many times what storing may cost. A smaller one is lost for many elements at once."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True, slots=True)
class Weighted:
    """What is summed up of one output, each times the root of w; zero where it is not used. Float32 is exact enough here."""

    slopes: Float32[Array, "rows numbers width"]
    """Of each hyperparameter; then the residual; then what the coefficient of the number before changes."""
    errors: Float32[Array, "rows both width"]
    """The slack and the bound."""
    slack: Float64[Array, "rows width"]
    """The slack itself, where it is used."""
    highest: Float64[Array, "rows width"]
    """The change where it is used, otherwise less than any."""
    lowest: Float64[Array, "rows width"]
    """The change where it is used, otherwise more than any."""


def weigh(
    *,
    residual: Float64[Array, "rows width"],
    change: Float64[Array, "rows width"],
    slack: Float64[Array, "rows width"],
    bound: Float64[Array, "rows width"],
    old: Float64[Array, "rows width"],
    slopes: Sequence[Float64[Array, "rows width"]],
    judged: Bool[Array, "rows width"],
) -> Weighted:
    """Weigh one output of a batch, as the criterion sees it.

    `old`: what the output changes by if the coefficient of the number before the step is off by all of itself; `slopes`:
    by hyperparameter, in a fixed order.
    """
    use = judged & (jnp.abs(change) > _DITHERED * slack) & jnp.isfinite(residual)
    weight = 1.0 / (slack + bound)

    def weighted(*numbers: Array) -> jax.Array:
        return jnp.stack([jnp.where(use, each * weight, 0.0).astype(jnp.float32) for each in numbers], axis=1)

    return Weighted(
        slopes=weighted(*slopes, residual, old),
        errors=weighted(slack, bound),
        slack=jnp.where(use, slack, 0.0),
        highest=jnp.where(use, change, -jnp.inf),
        lowest=jnp.where(use, change, jnp.inf),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """Sums by row over its elements and outputs, from which the coefficients of many rows follow."""

    products: Float64[np.ndarray, "rows tried tried"]
    """Of w slope slope."""
    residuals: Float64[np.ndarray, "rows tried"]
    """Of w slope residual."""
    chance: Float64[np.ndarray, "rows tried"]
    """The square of the sum of w |slope| slack: the most that storing can add to `residuals`, alike within a row."""
    alike: Float64[np.ndarray, "rows tried"]
    """The most that is added by what may be alike in all rows."""
    scaled: Float64[np.ndarray, "rows tried outputs"]
    """Of w slope times what one error of the coefficient of the number before the step makes."""


def sum_rows(outputs: Sequence[Weighted], inputs: Inputs, roundoffs: Float64[np.ndarray, "rows outputs tried"]) -> Sums:
    """Sum up a batch by rows. `roundoffs`: how many units of the criterion each hyperparameter may itself be off by."""
    products, residuals, stored, alike, scaled = 0.0, 0.0, 0.0, 0.0, list[Any]()
    # Infinity less infinity, where nothing is used; and a residual may be beyond float32, but its element tells of it.
    with np.errstate(invalid="ignore", over="ignore"):
        for number, each in enumerate(outputs):
            tried = each.slopes.shape[1] - 2
            slopes = np.asarray(each.slopes)[:, :tried]
            sums = (slopes @ np.asarray(each.slopes).transpose(0, 2, 1)).astype(np.float64)
            errors = np.abs(slopes) @ np.asarray(each.errors).transpose(0, 2, 1)
            storing, computing = np.moveaxis(errors.astype(np.float64), 2, 0)
            # Where all changes are alike, so is what their sums are rounded by.
            spread = np.max(each.highest, axis=1) - np.min(each.lowest, axis=1)
            together = (np.asarray(inputs.biased) | (spread <= _UNIFORM * np.max(each.slack, axis=1)))[:, None]
            off = np.abs(sums[:, :, :tried]) @ roundoffs[:, number, :, None]
            own = np.asarray(inputs.compute_error)[:, number, None] * off[:, :, 0]
            products += sums[:, :, :tried]
            residuals += sums[:, :, tried]
            scaled.append(np.asarray(inputs.size_error)[:, number, None] * sums[:, :, tried + 1])
            stored += np.where(together, 0.0, storing)
            alike += np.where(together, storing, 0.0) + _ROUNDOFFS * (computing + own)
    return Sums(
        products=np.asarray(products),
        residuals=np.asarray(residuals),
        chance=np.asarray(stored) ** 2,
        alike=np.asarray(alike),
        scaled=np.stack(scaled, axis=2),
    )


@dataclass(frozen=True, slots=True)
class Coefficient:
    """The error of a hyperparameter that all elements together show."""

    error: float
    """Relative; of 1 - b for a decay b."""
    limit: float
    """As much correct arithmetic may show on this record; infinite where nothing shows the hyperparameter."""

    @property
    def wrong(self) -> bool:
        return abs(self.error) > self.limit

    @property
    def smallest(self) -> float:
        """Return the smallest error that would have been caught, whatever its sign."""
        return self.limit + abs(self.error)


class Aggregate:
    """The sums of the rows of one group of parameters."""

    def __init__(self, tried: Sequence[str]) -> None:
        """`tried`: the hyperparameters, in the order of the sums."""
        self.tried = tuple(tried)
        self._sums: dict[str, np.ndarray] = {}

    def add(self, sums: Sums, rows: Int64[np.ndarray, " some"]) -> None:
        """Add some rows of a batch."""
        for name in Sums.__dataclass_fields__:
            total = getattr(sums, name)[rows].sum(axis=0)
            known = self._sums.get(name)
            self._sums[name] = total if known is None else known + total

    def coefficients(self) -> Mapping[str, Coefficient]:
        """Return the coefficient of each hyperparameter, as if it alone were wrong."""
        return {name: self._coefficient(number) for number, name in enumerate(self.tried)}

    def beside(self, name: str) -> Mapping[str, Coefficient]:
        """Return the coefficients of the others once the error of `name` is taken out."""
        first = self.tried.index(name)
        products, residuals = self._sums["products"], self._sums["residuals"]
        rest = residuals - products[:, first] * residuals[first] / products[first, first]
        return {
            other: self._coefficient(number, rest[number]) for number, other in enumerate(self.tried) if other != name
        }

    def _coefficient(self, number: int, residual: Any = None) -> Coefficient:
        square = float(self._sums["products"][number, number])
        if not square > 0:
            return Coefficient(0.0, np.inf)
        total = float(self._sums["residuals"][number]) if residual is None else float(residual)
        chance = _DEVIATIONS * float(np.sqrt(self._sums["chance"][number]))
        alike = float(self._sums["alike"][number]) + float(np.abs(self._sums["scaled"][number]).sum())
        return Coefficient(total / square, (chance + alike) / square)
