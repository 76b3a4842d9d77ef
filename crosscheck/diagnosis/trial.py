"""Trying a mistake on the rows that disagree: first roughly, then by the criterion itself.

The criterion needs the derivatives of a formula, which takes twenty times as long as a step of it. So every mistake, and
every pair of two, is first tried roughly, and only what reduces the residuals is judged by the criterion.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from crosscheck.criterion.elementwise import Compared, compare
from crosscheck.diagnosis.cause import Cause, ranked
from crosscheck.programs import call
from crosscheck.rules.inputs import Inputs, one_step
from crosscheck.rules.rule import Flags, Rule
from crosscheck.tolerance import FAIL, FORMATS
from crosscheck.trace.format import PARAM

Outputs = dict[str, NDArray[np.float64]]  # by output: (rows, width)
_REDUCED = 0.9
"""A mistake brings a row closer if this share of its elements that disagree come closer to what was recorded."""
_ROWS = 0.95
"""A mistake must bring this share of the rows closer. Not all: rounding may have moved the one element of a row too far."""
_BY_HALF = -0.5
"""The logarithm of the factor by which a mistake must reduce the residuals, in the median of the elements that disagree."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A mistake that may explain the rows: with this formula, these flags and these inputs they should agree."""

    sentence: str
    rule: Rule[Any]
    flags: Flags
    inputs: Inputs
    key: str = ""
    """The sentence without its numbers; empty if it has none."""
    fitted: int = 0
    """How many numbers were fitted to the rows."""

    @property
    def name(self) -> str:
        return self.key or self.sentence

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of what the formula makes, in the order of the criterion's arrays."""
        return (PARAM, *self.rule.elementwise(self.flags))


def exact(candidate: Candidate) -> Outputs:
    """Return what a formula makes of the rows."""
    return call(_one_step_of_all, (candidate.rule, candidate.flags), *_read(candidate.inputs))


def exact_along(
    candidate: Candidate, factors: Mapping[str, Any], along: Sequence[Mapping[str, Any]]
) -> tuple[Outputs, list[Outputs]]:
    """Return what a formula makes of the rows with these factors on its hyperparameters, and its derivatives by factors.

    `along`: for each derivative, the direction that it is taken in.
    """
    return call(_along, (candidate.rule, candidate.flags), *_read(candidate.inputs), factors, list(along))


def exact_along_slot(candidate: Candidate, name: str) -> tuple[Outputs, Outputs]:
    """Return what a formula makes of the rows, and the derivative by the elements of a slot before the step."""
    return call(_along_slot, (candidate.rule, candidate.flags, name), *_read(candidate.inputs))


def _read(inputs: Inputs) -> tuple[Any, Any, Any, Any]:
    """Return what a step reads, as `one_step` takes it."""
    return inputs.hyperparameters, inputs.counts, inputs.absent, inputs.values


@partial(jax.jit, static_argnums=(0, 1))
def _one_step_of_all(rule: Rule[Any], flags: Flags, h: Any, counts: Any, absent: Any, values: Any) -> dict[str, Any]:
    """Take a step from every row."""
    return jax.vmap(partial(one_step, rule, flags))(h, counts, absent, values)


@partial(jax.jit, static_argnums=(0, 1))
def _along(
    rule: Rule[Any], flags: Flags, h: Any, counts: Any, absent: Any, values: Any, factors: Any, along: list[Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Take a step from every row with factors on hyperparameters, with the derivatives by them."""

    def made(factors: Mapping[str, Any]) -> dict[str, Any]:
        scaled_h = {name: scaled(name, h[name], factor) for name, factor in factors.items()}
        return _one_step_of_all(rule, flags, {**h, **scaled_h}, counts, absent, values)  # pyright: ignore[reportUnknownVariableType] (jit hides it)

    each = [jax.jvp(made, (factors,), (direction,)) for direction in along]
    return each[0][0], [slope for _, slope in each]


@partial(jax.jit, static_argnums=(0, 1, 2))
def _along_slot(
    rule: Rule[Any], flags: Flags, name: str, h: Any, counts: Any, absent: Any, values: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Take a step from every row, with the derivatives by the elements of a slot."""

    def made(slot: Any) -> dict[str, Any]:
        return _one_step_of_all(rule, flags, h, counts, absent, {**values, name: slot})  # pyright: ignore[reportUnknownVariableType] (jit hides it)

    return jax.jvp(made, (values[name],), (jnp.ones_like(values[name]),))


def scaled(name: str, value: Any, factor: Any) -> Any:
    """Return a hyperparameter times a factor. Of Adam's betas the factor goes with 1 - beta, the weight of what is new."""
    # Written so that a factor of one changes nothing.
    return value + (1.0 - value) * (1.0 - factor) if name.startswith("beta") else value * factor


def stored_unit(inputs: Inputs, number: int) -> float:
    """Return the unit roundoff of the format in which most of an output is stored. `number`: of the output."""
    units, rows = np.unique(unit_roundoffs(inputs)[inputs.width > 0, number], return_counts=True)
    return float(units[np.argmax(rows)])


def unit_roundoffs(inputs: Inputs) -> NDArray[np.float64]:
    """Return the unit roundoff of the format of each row and output; the largest number of a format tells which it is."""
    known = {its.largest: its.unit_roundoff for its in FORMATS.values()}
    largest, where = np.unique(inputs.largest, return_inverse=True)
    return np.array([known[float(number)] for number in largest])[where].reshape(inputs.largest.shape)


def stored_again(inputs: Inputs) -> Inputs:
    """Return inputs of a step that stores twice what the right one stores once, as most mistakes do.

    What it stores in between is no larger than the number before the step or the one after it.
    """
    return replace(inputs, size_error=2 * inputs.size_error + inputs.result_error)


class Trial:
    """Rows that disagree with a formula, and how far each mistake brings them back."""

    def __init__(self, rule: Rule[Any], flags: Flags, inputs: Inputs) -> None:
        self.right = Candidate("", rule, flags, inputs)
        self.compared: Compared = compare(rule, flags, inputs)
        self.names = self.right.outputs
        self.over = {name: ~(self.compared.eta[name] <= FAIL) for name in self.names}
        # A row of the sample without an element that disagrees says nothing about the cause.
        self.rows = np.any([over.any(axis=1) for over in self.over.values()], axis=0)
        self._residual = {name: np.abs(inputs.recorded[name] - self.compared.exact[name]) for name in self.names}

    def real(self, name: str) -> NDArray[np.bool_]:
        """Return which elements of an output are judged, of the rows that disagree."""
        return self.compared.judged[name] & self.rows[:, None]

    def recorded(self, name: str) -> NDArray[np.float64]:
        """Return those elements as they were recorded, (elements,)."""
        return np.asarray(self.right.inputs.recorded[name])[self.real(name)]

    def score(self, candidate: Candidate) -> tuple[NDArray[np.bool_], float]:
        """Return which rows a mistake brings closer, and by what factor, as a logarithm: the less, the better."""
        made = exact(candidate)
        over = closer = np.zeros(len(self.rows))
        logs: list[NDArray[np.float64]] = []
        for name, wrong in self.over.items():
            left = np.abs(candidate.inputs.recorded[name] - np.asarray(made.get(name, np.nan)))
            before = self._residual[name]
            same = (left < before) | (~np.isfinite(before) & np.isfinite(left)) | ~np.isfinite(left + before)
            over, closer = over + wrong.sum(axis=1), closer + (wrong & same).sum(axis=1)
            ratio = np.log(np.maximum(left[wrong], 1e-300)) - np.log(np.maximum(before[wrong], 1e-300))
            logs.append(ratio[np.isfinite(ratio)])
        ratios = np.concatenate(logs)
        return closer >= _REDUCED * over, float(np.median(ratios)) if len(ratios) else 0.0

    def promising(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Return those mistakes that bring nearly all rows closer. Several of one sentence may share the rows among them."""
        return [candidate for _, candidate in self._closer(candidates)]

    def closest(self, candidates: Iterable[Candidate], most: int) -> list[Candidate]:
        """Return the `most` candidates that bring the rows closest, the best first."""
        return [candidate for _, candidate in sorted(self._closer(candidates), key=itemgetter(0))[:most]]

    def _closer(self, candidates: Iterable[Candidate]) -> list[tuple[float, Candidate]]:
        by_sentence: dict[str, list[tuple[float, NDArray[np.bool_], Candidate]]] = {}
        for candidate in candidates:
            closer, score = self.score(candidate)
            by_sentence.setdefault(candidate.sentence, []).append((score, closer, candidate))
        found: list[tuple[float, Candidate]] = []
        for several in by_sentence.values():
            best = min(score for score, _, _ in several)
            if best <= _BY_HALF and np.mean(np.any([closer for _, closer, _ in several], axis=0)[self.rows]) >= _ROWS:
                found += [(best, candidate) for _, closer, candidate in several if closer[self.rows].any()]
        return found

    def worst(self, candidate: Candidate) -> NDArray[np.float64]:
        """Return the largest eta of each row under a mistake; infinite for a row of which nothing is judged."""
        found = compare(candidate.rule, candidate.flags, stored_again(candidate.inputs))
        judged = np.any([judged.any(axis=1) for judged in found.judged.values()], axis=0)
        eta = np.max([eta.max(axis=1) for eta in found.eta.values()], axis=0)
        return np.where(judged, eta, np.inf)

    def causes(self, candidates: Sequence[Candidate], limit: float = FAIL) -> list[Cause]:
        """Return the mistakes under which every row agrees, those that fit best first."""
        best: dict[tuple[str, str, int], NDArray[np.float64]] = {}
        makes: dict[tuple[str, str, int], list[Callable[[], Outputs]]] = {}
        for candidate in candidates:
            key, eta = (candidate.sentence, candidate.name, candidate.fitted), self.worst(candidate)
            best[key] = np.minimum(best[key], eta) if key in best else eta
            makes.setdefault(key, []).append(partial(exact, candidate))
        worst = {key: float(np.max(eta[self.rows], initial=0.0)) for key, eta in best.items()}
        return ranked(Cause(*cause, eta, tuple(makes[cause])) for cause, eta in worst.items() if eta <= limit)
