"""Defines what a checkpoint holds beside its tensors: one schema, which every checkpoint that is read must satisfy.

The hashes of a checkpoint say that nothing changed since it was written; they do not say who wrote it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from distrib.data.config import ImageSize
from distrib.errors import BadInput
from distrib.networks.views import Tta

_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Text = Annotated[str, Field(max_length=200)]


class _Values(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class SavedScaler(_Values):
    """The state of torch's GradScaler."""

    scale: Annotated[float, Field(ge=0)]
    growth_factor: Annotated[float, Field(gt=1)]
    backoff_factor: Annotated[float, Field(gt=0, lt=1)]
    growth_interval: Annotated[int, Field(ge=1, lt=2**31)]
    growth_tracker: Annotated[int, Field(ge=0, lt=2**31, alias="_growth_tracker")]


class Identity(_Values):
    """What a checkpoint must share with the run that continues it."""

    dataset: _Text  # fingerprint
    num_images: _Count
    batch_size: _Count
    last_batch: _Text
    seed: _Count
    world_size: _Count
    threads: _Count
    torch: _Text
    hardware: _Text
    precision: _Text  # the mode that the run took
    code: _Text | None = None  # sha256 of the file of a network that is not the project's


class Inference(_Values):
    """What using the network takes beside its weights."""

    classes: Annotated[list[Annotated[str, Field(max_length=1000)]], Field(min_length=2, max_length=100_000)]
    """Names, by the number of the logit. What is no UTF-8 in the name of a folder is escaped, as Python would."""
    mean: Annotated[list[float], Field(min_length=1, max_length=4)]  # of each channel, in [0, 1]
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1, max_length=4)]
    image_size: ImageSize
    tta: Tta = "none"


class Saved(_Values):
    """All values of one checkpoint."""

    config: dict[str, Any]
    identity: Identity
    inference: Inference
    epoch_loss: float
    train_loss: float | None = None
    evaluation_pending: bool
    best_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    best_step: _Count | None = None
    epochs_without_gain: _Count = 0
    applied_updates: _Count
    skipped_steps: _Count
    lr: float  # that the last step used
    optimizer: _Text
    scaler: SavedScaler | None

    @field_validator("scaler", mode="before")
    @classmethod
    def _no_scaler(cls, scaler: object) -> object:
        """Read the empty state of a scaler that is not in use as none."""
        return None if scaler == {} else scaler


def checked(path: Path, step: int, values: Mapping[str, Any]) -> Saved:
    """Return the values of the checkpoint at `path`. Raises BadInput for values that no run of this program writes."""
    try:
        saved = Saved.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    else:
        if saved.applied_updates + saved.skipped_steps == step:
            return saved
        problem = f"{saved.applied_updates} applied updates and {saved.skipped_steps} skipped steps do not make {step}"
    raise BadInput(f"checkpoint {path}: its manifest holds what no run writes ({problem}); take another checkpoint")
