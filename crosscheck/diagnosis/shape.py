"""Describes rows that no known mistake explains: where they are, and how the residual grows with parameter, gradient and step."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crosscheck.diagnosis.failing import Extent, Failing
from crosscheck.diagnosis.trial import Trial
from crosscheck.report.finding import UNEXPLAINED
from crosscheck.rules.rule import Flags, Rule
from crosscheck.text import listed
from crosscheck.trace.format import GRAD, PARAM

_ENOUGH = 24  # elements, to say how a residual grows
_SPREAD = 0.3  # standard deviation of a logarithm: what varies less cannot be told from a constant
_NEAR = 0.12  # of an exponent that has a name
_POWERS = {
    1.0: "like {}",
    2.0: "like {} squared",
    0.5: "like the root of {}",
    -1.0: "like 1 / {}",
    -2.0: "like 1 / {} squared",
}


def unexplained(failing: Sequence[tuple[Rule[Any], Flags, Failing]]) -> str:
    """Return one sentence about rows that no mistake explains: which tensors, which steps, and how the residual grows.

    It is about the first slot that disagrees, because the parameter is computed from the state, and about the formula of
    whose tensors most disagree.
    """
    said = [UNEXPLAINED]
    rule, flags, rows = max(failing, key=lambda each: len(each[2].spread))
    output = min((name for name, _ in rows.spread), key=lambda name: (name == rule.moved, name))
    # Under other options, such as those of another group, the same output may disagree, too.
    places = [(tensor, at) for _, _, each in failing for (name, tensor), at in each.spread.items() if name == output]
    said.append(_where(output, places, list(dict.fromkeys(t for _, _, each in failing for t in each.tensors))))
    with np.errstate(all="ignore"):
        trial = Trial(rule, flags, rows.sample())
        growth = ", ".join(_growth(trial, PARAM if output == rule.moved else output, rows.steps()))
    if growth:
        said.append(f"the residual {growth}")
    return "; ".join(said)


def _where(output: str, places: Sequence[tuple[str, Extent]], tensors: Iterable[str]) -> str:
    disagree, spreads = list(dict.fromkeys(name for name, _ in places)), [at for _, at in places]
    agree = [name for name in tensors if name not in disagree]
    other = f" (not of {listed(agree)})" if agree else ""
    first, last = min(at.first for at in spreads), max(at.last for at in spreads)
    count = len(set[int]().union(*(at.steps for at in spreads)))
    when = f"at step {first}" if count == 1 else f"at {count} steps from {first} to {last}"
    return f"it is in {output} of {listed(disagree)}{other}, {when}"


def _growth(trial: Trial, output: str, steps: NDArray[np.int64]) -> Iterator[str]:
    """Yield how the residual grows with parameter, gradient and step: exponents by least squares of logarithms."""
    inputs = trial.right.inputs
    residual = np.abs(inputs.recorded[output] - np.asarray(trial.compared.exact[output]))
    known = {
        "|p|": np.abs(inputs.values[PARAM]),
        "|g|": np.abs(inputs.values[GRAD]),
        "t": np.broadcast_to(steps[:, None], residual.shape),
    }
    use = trial.over[output] & (residual > 0)
    logs = {name: np.log(of.astype(np.float64)) for name, of in known.items()}
    for of in (np.log(residual), *logs.values()):
        use &= np.isfinite(of)
    if use.sum() < _ENOUGH:
        return
    logs = {name: of[use] for name, of in logs.items() if np.std(of[use]) > _SPREAD}
    if not logs:
        return
    columns = np.stack([*logs.values(), np.ones(int(use.sum()))], axis=1)
    solution, *_ = np.linalg.lstsq(columns, np.log(residual)[use], rcond=None)
    for name, power in zip(logs, solution[:-1], strict=True):
        yield _in_words(name, float(power))


def _in_words(name: str, power: float) -> str:
    if abs(power) < _NEAR:
        return f"does not depend on {name}"
    for known, words in _POWERS.items():
        if abs(power - known) < _NEAR:
            return f"{'grows' if known > 0 else 'falls'} {words.format(name)}"
    return f"{'grows' if power > 0 else 'falls'} like {name}^{power:.1f}"
