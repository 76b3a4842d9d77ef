"""Rows of one formula, gathered until a batch of fixed shape is full: one compilation, bounded memory."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64, Int32, Int64, Shaped

from crosscheck.criterion.profile import Profile, Rounding, is_biased, profile_of, rounding_of
from crosscheck.errors import TraceError
from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Flags, Rule
from crosscheck.trace.format import AVERAGE, GRAD, PARAM, DType, Option
from crosscheck.trace.tensors import Quantity, TensorBlock

ROWS, WIDTH = 256, 128
"""32,768 elements, a quarter of a MiB an array. Larger batches are not faster, and a short trace would fill them with padding.

The sample of rows that disagree has the same shape, so that the diagnosis needs no other compilation of the right formula.
"""


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


@dataclass(frozen=True, slots=True)
class _Settings:
    """What the options of a group at one step come to."""

    options: dict[str, Option]
    flags: Flags
    h: dict[str, float]
    profiles: dict[tuple[str, str, str], Profile] = field(default_factory=dict[tuple[str, str, str], Profile])
    """By what a profile depends on of a tensor: its implementation, device and format."""


class Batcher:
    """Gathers the rows of tensors into batches."""

    def __init__(self, rule: Rule[Any], profile: Profile | None = None) -> None:
        """`profile`: of all tensors, whatever implementation stepped them."""
        self.rule, self.profile = rule, profile
        self.profiles: dict[str, None] = {}
        self.own: dict[str, None] = {}
        self.used: dict[int, dict[str, None]] = defaultdict(dict)
        """By group: the hyperparameters that were in use, that is, not zero."""
        self.rows = 0
        """Rows taken in: one for each applied step of a tensor."""
        self.stochastic = False
        """Whether parameters and state are claimed to be rounded at random."""
        self._filling: dict[Flags, _Filling] = {}
        # By id of the options: all tensors of a group share one dictionary at a step.
        self._settings: dict[int, _Settings] = {}

    def add(self, block: TensorBlock) -> Iterator[Batch]:
        """Take in the applied steps of a tensor and yield the batches that became full. An empty tensor has nothing to judge.

        Raises TraceError if the rule misses something.
        """
        if not len(block.coordinates):
            return
        moving = [row for row, step in enumerate(block.steps) if step.applied and block.has_grad[row]]
        self.rows += len(moving)
        by_flags: dict[Flags, list[int]] = {}
        for row in moving:
            by_flags.setdefault(self._settings_of(block, row).flags, []).append(row)
        for flags, rows in by_flags.items():
            yield from self._add_rows(block, flags, np.array(rows, np.int64))

    def flush(self) -> Iterator[Batch]:
        """Yield the batches that did not become full, and start anew."""
        for flags, filling in self._filling.items():
            yield Batch(self.rule, flags, filling.inputs, filling.origins)
        self._filling = {}

    def _settings_of(self, block: TensorBlock, row: int) -> _Settings:
        options = block.options[row]
        known = self._settings.get(id(options))
        if known is None or known.options is not options:
            flags, h = self.rule.flags(options), self.rule.hyperparameters(options)
            if len(self._settings) > 10_000:
                self._settings.clear()
            self._settings[id(options)] = known = _Settings(options, flags, h)
            self.own |= dict.fromkeys(self.rule.own(flags, h))
            self.used[self.rule.group_of(block.info)] |= dict.fromkeys(
                name for name in self.rule.hyperparameters_read(flags) if h[name]
            )
        return known

    def _add_rows(self, block: TensorBlock, flags: Flags, rows: Int64[np.ndarray, " rows"]) -> Iterator[Batch]:
        outputs = {PARAM: block.param, **self._slots(block, flags)}
        per_row = self._numbers(block, flags, outputs, rows)
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
        settings = [self._settings_of(block, int(row)).h for row in rows]
        hyperparameters = {name: np.array([h[name] for h in settings]) for name in settings[0]}
        hyperparameters |= {name: values[rows] for name, values in block.context.items()}
        rounded = np.array([self._profile_of(block, int(row)).rounds_hyperparameters for row in rows])
        if not rounded.any():
            return hyperparameters
        with np.errstate(over="ignore"):
            return {name: np.where(rounded, h.astype(np.float32), h) for name, h in hyperparameters.items()}

    def _numbers(
        self, block: TensorBlock, flags: Flags, outputs: Mapping[str, Quantity], rows: Int64[np.ndarray, " rows"]
    ) -> dict[str, Shaped[np.ndarray, "rows ..."]]:
        """Return the fields of `Inputs` that are about the arithmetic and the outputs of each row."""
        dtypes: list[DType] = [quantity.after.dtype.name for quantity in outputs.values()]  # pyright: ignore[reportAssignmentType]
        profiles = [self._profile_of(block, int(row)) for row in rows]
        known = list(dict.fromkeys(profiles))
        others = sorted(set(dtypes[1:]) - {dtypes[0]})
        mixed = f", state in {' and '.join(others)}" if others and self.profile is None else ""
        self.profiles |= {profile.name + mixed: None for profile in known}
        which = np.array([known.index(profile) for profile in profiles]) if len(known) > 1 else np.zeros(len(rows), int)
        each = [self._arithmetic(profile, flags, dtypes) for profile in known]
        return {
            "judged": np.stack([quantity.there_after[rows] for quantity in outputs.values()], axis=1),
            **{name: np.array([numbers[name] for numbers in each])[which] for name in each[0]},
        }

    def _arithmetic(self, profile: Profile, flags: Flags, dtypes: list[DType]) -> dict[str, Any]:
        """Return what a profile makes of one row: numbers, and lists with one for each output."""
        stores = (self.rule.stores(flags), *(slot.stores for slot in self.rule.elementwise(flags).values()))
        # The parameter is computed from the state, so that the coarsest format of all counts. The state is computed from the
        # gradient, which is exact; but its sum with weight decay is first stored in the parameter's format.
        summed = dtypes[:1] if self.rule.decays_gradient(flags) and profile.rounds_between else []
        each = [
            rounding_of(profile, dtypes[0], stores[0], others=dtypes),
            *(rounding_of(profile, *of, summed=summed) for of in zip(dtypes[1:], stores[1:], strict=True)),
        ]
        return {
            **{name: [getattr(rounding, name) for rounding in each] for name in Rounding.__dataclass_fields__},
            "scalar_error": profile.scalar_error,
            "beta_error": profile.beta_error,
            "rounds_between": profile.rounds_between,
            "biased": is_biased(profile, dtypes),
        }

    def _profile_of(self, block: TensorBlock, row: int) -> Profile:
        if self.profile is not None:
            return self.profile
        of = self._settings_of(block, row)
        key = block.info.implementation, block.info.device, block.info.dtype
        if key not in of.profiles:
            of.profiles[key] = profile_of(block.info, of.options, stochastic=self.stochastic)
        return of.profiles[key]

    def _slots(self, block: TensorBlock, flags: Flags) -> dict[str, Quantity]:
        """Return the elementwise slots that the rule reads. One that torch never made is one of absent rows."""
        found: dict[str, Quantity] = {}
        wanted, absent = self.rule.elementwise(flags), self.rule.absent_at_first(flags)
        for name in wanted:
            quantity = block.slots.get(name)
            if quantity is None or quantity.after.shape != block.param.after.shape:
                if quantity is not None:
                    raise TraceError(
                        f"{name} of {block.info.name} is one number for the whole tensor, and the rule {self.rule.name} needs "
                        "one for each element"
                    )
                others = sorted(set(block.slots) - {AVERAGE, *wanted})
                if others or name not in absent:
                    raise TraceError(
                        f"{block.info.name} has no slot {name!r}, which the rule {self.rule.name} needs; the record has "
                        f"{', '.join(block.slots) or 'none'}: if it goes by another name there, record with slots={{{name!r}: …}}"
                    )
                nothing = np.zeros(len(block.steps), np.bool_)
                zeros = np.zeros_like(block.param.after)
                quantity = Quantity(zeros, zeros, nothing, nothing, nothing)
            found[name] = quantity
        return found


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
            **{name: np.zeros((ROWS, outputs)) for name in Rounding.__dataclass_fields__},
            scalar_error=np.zeros(ROWS),
            beta_error=np.zeros(ROWS),
            rounds_between=np.zeros(ROWS, np.bool_),
            biased=np.zeros(ROWS, np.bool_),
        )
    )
