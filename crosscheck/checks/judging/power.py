"""Computes the power of a record: the smallest error of each hyperparameter that it would have shown, by group of parameters."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from crosscheck.criterion.aggregate import Aggregate, Coefficient
from crosscheck.criterion.batches import Batch
from crosscheck.criterion.elementwise import Judged
from crosscheck.report.report import Power
from crosscheck.rules.rule import Rule


class Groups:
    """What the rows of one rule say of its hyperparameters, by the group whose options they were stepped with."""

    def __init__(self, rule: Rule[Any]) -> None:
        self._rule = rule
        self._elements: dict[int, dict[str, float]] = defaultdict(dict)
        # By what the sums have a number of: hyperparameters and outputs. A flag that changes within a record may change either,
        # as amsgrad adds an output.
        self._aggregates: dict[int, dict[tuple[tuple[str, ...], tuple[str, ...]], Aggregate]] = defaultdict(dict)
        self.first_step: dict[int, int] = {}
        """The first step that was judged, by group."""

    def add(self, batch: Batch, judged: Judged) -> None:
        """Take in what became of a batch."""
        tried = batch.rule.hyperparameters_read(batch.flags)
        numbers = np.array([self._rule.group_of(origin.block.info) for origin in batch.origins])
        for group in map(int, np.unique(numbers)):
            rows = np.flatnonzero(numbers == group)
            step = min(batch.origins[row].step for row in rows)
            self.first_step[group] = min(step, self.first_step.get(group, step))
            known = self._elements[group]
            for name, smallest in judged.smallest.items():
                known[name] = min(known.get(name, np.inf), float(smallest[rows].min()))
            aggregates = self._aggregates[group]
            aggregates.setdefault((tried, batch.outputs), Aggregate(tried)).add(judged.sums, rows)

    def power(self, group: int, names: Sequence[str]) -> dict[str, Power]:
        """Return the power for the hyperparameters of these names in a group."""
        together = self._coefficients(group)
        return {
            name: Power(
                element=self._elements[group].get(name, np.inf),
                aggregate=together[name].smallest if name in together else np.inf,
            )
            for name in names
        }

    def wrong(self) -> Iterator[tuple[int, str, Coefficient]]:
        """Yield the group, the name and the coefficient of each hyperparameter that all elements together show to be off.

        Of several, those are named that are still off once the one that stands out most is taken out.
        """
        for group, aggregates in self._aggregates.items():
            for aggregate in aggregates.values():
                off = _off(aggregate.coefficients())
                if not off:
                    continue
                worst = max(off, key=lambda name: abs(off[name].error) / off[name].limit)
                yield group, worst, off[worst]
                for name, coefficient in _off(aggregate.beside(worst)).items():
                    yield group, name, coefficient

    def _coefficients(self, group: int) -> Mapping[str, Coefficient]:
        """Return of each hyperparameter the coefficient that says most."""
        best: dict[str, Coefficient] = {}
        for aggregate in self._aggregates[group].values():
            for name, found in aggregate.coefficients().items():
                if name not in best or found.smallest < best[name].smallest:
                    best[name] = found
        return best


def _off(coefficients: Mapping[str, Coefficient]) -> dict[str, Coefficient]:
    return {name: found for name, found in coefficients.items() if found.wrong}
