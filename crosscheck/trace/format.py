"""The JSON half of a trace, as types: docs/trace.md in code.

A trace is a folder of segments, one for each time the run was started. A segment is `header.json`, parts
(`part-000001.<sha256>.safetensors`, each with a `Part` in its metadata), passes
(`pass-00000001.<sha256>.safetensors`, each with a `Pass`) and, once closed, `end.json`.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator

from crosscheck.trace.schedule_claims import read_schedule

FORMAT = "twinstep-trace"
VERSION = 1
AVERAGE = "average"  # the slot that holds the moving average of a parameter
GRAD = "grad"  # the gradient, where it stands beside the names of slots
DIGEST = "digest"  # the array of digests of the parameter; those of a slot are SLOT.digest
LOSS_SCALE = "loss_scale"  # what stands for the scale beside the names of slots
PARAM = "param"  # what stands for the parameter itself beside the names of slots
ROUNDOFF_OF = " roundoff"
"""What follows a hyperparameter's name in the name of the option that tells the unit roundoff of the tensor that held it."""
RESERVED_SLOTS = ("", PARAM, GRAD, "backward", "coordinates")  # names that a slot cannot have, nor one with a slash
METADATA_KEY = "twinstep"  # of a safetensors file; its value is a Part or a Pass as JSON
PART_NAME = r"part-(\d{6})\.([0-9a-f]{64})\.safetensors"
PASS_NAME = r"pass-(\d{8})\.([0-9a-f]{64})\.safetensors"  # noqa: S105 (over a network)
SEGMENT_NAME = r"segment-(\d{4})"
RANK_NAME = r"rank-(\d{4,})"  # of the folder that holds the segments of a rank above 0

_UNUSUAL = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


def _from_json(value: Any) -> Any:
    return _UNUSUAL[value] if isinstance(value, str) and value in _UNUSUAL else value


def _to_json(value: float) -> Any:
    return value if math.isfinite(value) else str(value)


Number = Annotated[float, BeforeValidator(_from_json), PlainSerializer(_to_json, when_used="json")]
"""A float64; JSON has no infinities, so they are written as the strings inf, -inf and nan."""
Option = bool | Annotated[int, Field(gt=-(2**63), lt=2**63)] | Number | None | tuple[Number, ...]
"""The value of one option of a parameter group."""


def as_float(option: Option) -> float | None:
    """Return the number that an option is, a flag as 0 or 1; None for one that is no number."""
    return float(option) if isinstance(option, int | float) else None


Index = Annotated[int, Field(ge=0, lt=2**63)]
Positive = Annotated[int, Field(ge=1, lt=2**63)]
Indices = tuple[Index, ...]
Ranges = tuple[tuple[Index, Index], ...]
Shape = Annotated[tuple[Annotated[int, Field(ge=0, le=2**40)], ...], Field(max_length=64)]
DType = Literal["float64", "float32", "bfloat16", "float16"]
Implementation = Literal["single", "foreach", "fused"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Scaler(_Strict):
    """A loss scaler at the start of a segment, in torch.amp.GradScaler's terms."""

    scale: Number
    growth_factor: Number
    backoff_factor: Number
    growth_interval: Positive
    growth_tracker: Index = 0  # steps without overflow since the scale changed


class Claims(_Strict):
    """What a trainer states that it does around the optimizer; the replay checks it."""

    clip_norm: Number | None = None  # the gradients' global 2-norm is clipped at; NaN: nothing is said of clipping
    clip_value: Number | None = None  # every element is clamped at
    stochastic_rounding: bool = False  # parameters and state are rounded at random to one of their two neighbours
    # Decay of the moving average of the parameters; or all weigh the same.
    average: Number | Literal["equal"] | None = None
    averaged: Index = 0  # updates that the average has seen before this segment
    applied: Index = 0  # updates applied before this segment
    schedule: dict[str, Any] | None = None  # of the learning rate, by applied updates
    options: dict[str, dict[str, Option]] | None = None  # by tensor: its group's options; lr without its schedule
    # What it changes between steps: `param`, `average`, `loss_scale` or slots of the state.
    between: tuple[str, ...] = ()

    @field_validator("schedule")
    @classmethod
    def _can_be_checked(cls, schedule: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return the schedule. Raises TraceError for one that no replay could check."""
        if schedule is not None:
            read_schedule(schedule)
        return schedule


class Header(_Strict):
    """The header of a segment: the optimizer, the formula, the claims, and who recorded them."""

    format: Literal["twinstep-trace"] = FORMAT
    version: int = VERSION
    rule: str  # the torch optimizer whose formula is claimed: sgd, adam, adamw
    optimizer: str  # the class that was recorded, with its module
    first_step: Positive = 1
    coordinates: Positive | None = None  # sampled of each tensor; None: as many as the recorder's budget allows
    world_size: Positive = 1
    rank: Index = 0
    seed: int | None = None
    attached_with_state: bool | None = None  # the optimizer held state when the recorder was attached; None: not said
    claims: Claims | None = None
    scaler: Scaler | None = None
    versions: dict[str, str]


class TensorInfo(_Strict):
    """A parameter tensor; its position in the part's list is its number."""

    name: str
    shape: Shape
    dtype: DType
    device: str  # cpu, cuda, …
    group: Index
    implementation: Implementation
    # The tensor whose place in its group it took, or which was changed in shape or format.
    replaces: Index | None = None
    stepped: bool = True  # the optimizer has it, and it is not frozen

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


class Step(_Strict):
    """One attempt to step, applied or skipped."""

    step: Positive
    applied: bool
    loss_scale: Number | None = None
    # Euclidean, over all tensors, of the gradients as consumed, in float64; None: it was not taken.
    grad_norm: Number | None = None
    backward_norm: Number | None = None  # the same of the gradients as backward left them, where these were recorded
    # By group; an option not named has the value of the row before.
    options: Annotated[tuple[dict[str, Option], ...], Field(max_length=2**16)]
    state_loaded: bool = False  # load_state_dict was called since the step before
    overflow_elsewhere: bool = False  # since then gradients of another optimizer under the same scaler overflowed
    # The updates of the scaler since the step before, and whether each counted an overflow; None: one, and before the first step
    # none.
    scaler_updates: tuple[bool, ...] | None = None


class SlotRows(_Strict):
    """Which rows of a block hold a slot of the optimizer's state."""

    scalar: bool = False  # one number a tensor, such as Adam's step
    before: Indices  # rows whose value before the step is stored; else it is the value after the row before
    absent_before: Indices = ()
    absent_after: Indices = ()
    held: Ranges | None = None  # as in TensorRows; None: those of the parameter


class TensorRows(_Strict):
    """One tensor's rows of a block."""

    tensor: Index
    no_grad: Indices = ()  # rows without a gradient
    backward: Indices = ()  # rows whose gradient at the end of backward is stored; else it is the one consumed
    before: Indices  # as in SlotRows, of the parameter
    slots: dict[str, SlotRows] = {}
    # From which element up to which digests were taken: before each row and after the last, or all alike.
    held: Ranges = ()
    # In a full block: from which element up to which, in C order, the tensor is there; None: all of it.
    range: tuple[Index, Index] | None = None


class Block(_Strict):
    """Rows of consecutive steps: sampled coordinates, or (full) whole tensors, or blocks of them, of one step."""

    full: bool
    steps: Annotated[Indices, Field(min_length=1)]
    tensors: tuple[TensorRows, ...]
    # Between which rows digests were taken: k is before row k, and the number of rows is after the last; None: everywhere.
    held_at: Indices | None = None


class Part(_Strict):
    """Some steps of a segment, which were written in one file."""

    tensors: tuple[TensorInfo, ...]
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    blocks: tuple[Block, ...]


class Pass(_Strict):
    """A forward and backward pass of one step, over the whole global batch."""

    step: Positive
    network: str
    compute: Literal["float32", "bfloat16", "float16"]  # the format of its matrix products; autocast's, if a half
    loss_scale: Number = 1.0
    label_smoothing: Number = 0.0
    mean: tuple[Number, ...]  # a pixel x of a channel enters as (x / 255 - mean) / std
    std: tuple[Number, ...]
    training: bool  # the network was in training mode
    world_size: Positive = 1
    accumulate: Positive = 1  # parts in which each rank computed its share


class End(_Strict):
    """The end of a segment, which is written when a recording is closed. Without it the run was killed or still goes on."""

    parts: Index
    last_step: Index
    stopped: str | None = None  # why the recorder could not go on, in one sentence


def key(block: int, tensor: int, quantity: str) -> str:
    """Return the name of an array in the safetensors file.

    Quantities are coordinates, grad, backward, before, after, digest, SLOT.before, SLOT.after and SLOT.digest.
    """
    return f"{block}/{tensor}/{quantity}"
