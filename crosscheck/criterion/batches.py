"""Rows of one formula, gathered until a batch of fixed shape is full: one compilation, bounded memory."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32, Int64, Shaped

from crosscheck.errors import TraceError
from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Flags, Rule
from crosscheck.tolerance import FORMATS, Format, Profile, profile_of, trial_error
from crosscheck.trace.format import AVERAGE, GRAD, PARAM, Option
from crosscheck.trace.tensors import Quantity, TensorBlock

ROWS, WIDTH = 512, 256  # 131,072 elements: a MiB an array


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a row of a batch comes from."""

    block: TensorBlock
    row: int
    column: int  # of the block; the first of the row

    @property
    def step(self) -> int:
        return self.block.steps[self.row].step


@dataclass(slots=True)
class Batch:
    """Rows of one rule and its flags."""

    rule: Rule[Any]
    flags: Flags
    inputs: Inputs
    origins: list[Origin]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of what the rule makes, as a report gives them: the thing that moves, then the slots."""
        return (self.rule.moved, *self.rule.elementwise(self.flags))


@dataclass(slots=True)
class _Filling:
    """A batch in the making."""

    inputs: Inputs
    origins: list[Origin] = field(default_factory=list[Origin])


class Batcher:
    """Gathers the rows of tensors into batches."""

    def __init__(self, rule: Rule[Any], profile: Profile | None = None) -> None:
        """`profile`: of all tensors, whatever implementation stepped them."""
        self.rule, self.profile = rule, profile
        self.profiles: dict[str, None] = {}
        self.own: dict[str, None] = {}
        self.used: dict[str, None] = {}
        """Hyperparameters that were in use, that is, not zero."""
        self.rows = 0
        """Rows taken in: one for each applied step of a tensor."""
        self.off_by = 0.01
        """The largest fraction by which a hyperparameter was tried wrong."""
        self._filling: dict[Flags, _Filling] = {}
        # By id of the options: all tensors of a group share one dictionary at a step.
        self._settings: dict[int, tuple[dict[str, Option], Flags, dict[str, float]]] = {}

    def add(self, block: TensorBlock) -> Iterator[Batch]:
        """Take in the applied steps of a tensor and yield the batches that became full.

        Raises TraceError if the rule misses something.
        """
        moving = [row for row, step in enumerate(block.steps) if step.applied and block.has_grad[row]]
        self.rows += len(moving)
        by_flags: dict[Flags, list[int]] = {}
        for row in moving:
            by_flags.setdefault(self._settings_of(block.options[row])[0], []).append(row)
        for flags, rows in by_flags.items():
            yield from self._add_rows(block, flags, np.array(rows, np.int64))

    def flush(self) -> Iterator[Batch]:
        """Yield the batches that did not become full, and start anew."""
        for flags, filling in self._filling.items():
            if filling.origins:
                yield Batch(self.rule, flags, filling.inputs, filling.origins)
        self._filling = {}

    def _settings_of(self, options: dict[str, Option]) -> tuple[Flags, dict[str, float]]:
        known = self._settings.get(id(options))
        if known is None or known[0] is not options:
            flags, h = self.rule.flags(options), self.rule.hyperparameters(options)
            if len(self._settings) > 10_000:
                self._settings.clear()
            self._settings[id(options)] = known = (options, flags, h)
            self.own |= dict.fromkeys(self.rule.own(flags, h))
            self.used |= dict.fromkeys(name for name in self.rule.matters(flags) if h[name])
        return known[1], known[2]

    def _add_rows(self, block: TensorBlock, flags: Flags, rows: Int64[np.ndarray, " rows"]) -> Iterator[Batch]:
        outputs = {PARAM: block.param, **self._slots(block, flags)}
        per_row = self._numbers(block, outputs, rows)
        hyperparameters = self._hyperparameters(block, rows)
        counts = {name: _counts(block, name, rows) for name in self.rule.counts(flags)}
        absent = {name: ~outputs[name].there_before[rows] for name in self.rule.absent_at_first(flags)}
        columns = len(block.coordinates)
        for column in range(0, columns, WIDTH):
            width, done = min(WIDTH, columns - column), 0
            while done < len(rows):
                filling = self._filling.get(flags)
                if filling is None:
                    filling = self._filling[flags] = _empty(self.rule, flags, hyperparameters)
                at, taken = len(filling.origins), min(ROWS - len(filling.origins), len(rows) - done)
                here, some, into = slice(at, at + taken), slice(done, done + taken), filling.inputs
                cut = rows[some], slice(column, column + width)
                with np.errstate(invalid="ignore"):  # a NaN is a number like any other here
                    for name, quantity in outputs.items():
                        into.values[name][here, :width] = quantity.before[cut]
                        into.recorded[name][here, :width] = quantity.after[cut]
                    into.values[GRAD][here, :width] = block.grad[cut]
                    for name in self.rule.extras:
                        into.values[name][here, :width] = block.extras[name][cut]
                into.width[here] = width
                for name, numbers in per_row.items():
                    getattr(into, name)[here] = numbers[some]
                for name, numbers in hyperparameters.items():
                    into.hyperparameters[name][here] = numbers[some]
                for name, numbers in counts.items():
                    into.counts[name][here] = numbers[some]
                for name, numbers in absent.items():
                    into.absent[name][here] = numbers[some]
                filling.origins += [Origin(block, int(row), column) for row in rows[some]]
                done += taken
                if len(filling.origins) == ROWS:
                    yield Batch(self.rule, flags, into, filling.origins)
                    del self._filling[flags]

    def _hyperparameters(
        self, block: TensorBlock, rows: Int64[np.ndarray, " rows"]
    ) -> dict[str, Float64[np.ndarray, " rows"]]:
        """Return the hyperparameters as the recorded implementation reads them, one number a row each."""
        settings = [self._settings_of(block.options[int(row)])[1] for row in rows]
        hyperparameters = {name: np.array([h[name] for h in settings]) for name in settings[0]}
        hyperparameters |= {name: values[rows] for name, values in block.context.items()}
        if self._profile_of(block, rows).rounds_hyperparameters:
            with np.errstate(over="ignore"):
                return {name: h.astype(np.float32).astype(np.float64) for name, h in hyperparameters.items()}
        return hyperparameters

    def _numbers(
        self, block: TensorBlock, outputs: Mapping[str, Quantity], rows: Int64[np.ndarray, " rows"]
    ) -> dict[str, Shaped[np.ndarray, "rows ..."]]:
        """Return the fields of `Inputs` that are about the arithmetic and the outputs of each row."""
        profile, count = self._profile_of(block, rows), len(rows)
        self.profiles[profile.name] = None
        formats = [_format(quantity) for quantity in outputs.values()]
        self.off_by = max(self.off_by, float(trial_error(formats[0].unit_roundoff)))
        return {
            "judged": np.stack([quantity.there_after[rows] for quantity in outputs.values()], axis=1),
            "roundoff": np.tile([f.unit_roundoff for f in formats], (count, 1)),
            "floor": np.tile([f.floor for f in formats], (count, 1)),
            "largest": np.tile([f.largest for f in formats], (count, 1)),
            "scalar_error": np.full(count, profile.scalar_error),
            "beta_error": np.full(count, profile.beta_error),
            "rounds_between": np.full(count, profile.rounds_between),
        }

    def _profile_of(self, block: TensorBlock, rows: Int64[np.ndarray, " rows"]) -> Profile:
        return self.profile or profile_of(block.info, block.options[int(rows[0])])

    def _slots(self, block: TensorBlock, flags: Flags) -> dict[str, Quantity]:
        """Return the elementwise slots that the rule reads. One that torch never made is one of absent rows."""
        found: dict[str, Quantity] = {}
        wanted, absent = self.rule.elementwise(flags), self.rule.absent_at_first(flags)
        for name in wanted:
            quantity = block.slots.get(name)
            if quantity is None or quantity.after.shape != block.param.after.shape:
                others = sorted(set(block.slots) - {AVERAGE, *wanted})
                if others or quantity is not None or name not in absent:
                    raise TraceError(
                        f"{block.info.name} has no slot {name!r} of its shape, which the rule {self.rule.name} needs; the record has "
                        f"{', '.join(block.slots) or 'none'}: if it goes by another name there, record with slots={{{name!r}: …}}"
                    )
                nothing = np.zeros(len(block.steps), np.bool_)
                zeros = np.zeros_like(block.param.after)
                quantity = Quantity(zeros, zeros, nothing, nothing, nothing)
            found[name] = quantity
        return found


def _format(quantity: Quantity) -> Format:
    return FORMATS[quantity.after.dtype.name]  # pyright: ignore[reportArgumentType]


def _counts(block: TensorBlock, name: str, rows: Int64[np.ndarray, " rows"]) -> Int32[np.ndarray, " rows"]:
    """Return the steps that a slot has counted before each row. Raises TraceError if it holds something else."""
    slot = block.slots.get(name)
    if slot is None:
        raise TraceError(
            f"{block.info.name} has no slot {name!r}, which the rule needs; the record has {', '.join(block.slots) or 'none'}: "
            f"if it goes by another name there, record with slots={{{name!r}: …}}"
        )
    counts: Float64[np.ndarray, " rows"] = slot.before[rows, 0].astype(np.float64)
    odd = ~((counts >= 0) & (counts < 2**31 - 1)) | (counts != np.floor(counts))
    if odd.any():
        raise TraceError(f"the slot {name!r} of {block.info.name} holds {counts[odd][0]}: not a number of steps")
    return counts.astype(np.int32)


def _empty(rule: Rule[Any], flags: Flags, hyperparameters: Iterable[str]) -> _Filling:
    slots = rule.elementwise(flags)
    outputs = len(slots) + 1

    def zeros() -> Float64[np.ndarray, "rows width"]:
        return np.zeros((ROWS, WIDTH))

    return _Filling(
        Inputs(
            values={name: zeros() for name in (PARAM, GRAD, *slots, *rule.extras)},
            recorded={PARAM: zeros(), **{slot: zeros() for slot in slots}},
            width=np.zeros(ROWS, np.int32),
            judged=np.zeros((ROWS, outputs), np.bool_),
            hyperparameters={name: np.zeros(ROWS) for name in hyperparameters},
            counts={name: np.zeros(ROWS, np.int32) for name in rule.counts(flags)},
            absent={name: np.zeros(ROWS, np.bool_) for name in rule.absent_at_first(flags)},
            roundoff=np.zeros((ROWS, outputs)),
            floor=np.zeros((ROWS, outputs)),
            largest=np.zeros((ROWS, outputs)),
            scalar_error=np.zeros(ROWS),
            beta_error=np.zeros(ROWS),
            rounds_between=np.zeros(ROWS, np.bool_),
        )
    )
