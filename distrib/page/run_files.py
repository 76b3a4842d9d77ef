"""Reads the files of a run's folder that the page shows. A damaged file is noted, and only its part of the page is missing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from pydantic import BaseModel, Field, model_validator

from distrib import layout
from distrib.config.load import read_toml
from distrib.errors import BadInput
from distrib.files import read_json
from distrib.page import curves
from distrib.page.curves import Lines

Scalar = str | bool | int | float | None


class Ended(BaseModel):
    """How the start before another one ended."""

    state: str | None = None
    exit_code: int | None = None
    reason: str | None = None
    reached: int | None = None  # the last step on record


class StartFacts(BaseModel):
    """A start of the run."""

    time: float = Field(ge=0, lt=2**37)  # seconds since 1970, of years that a calendar has
    step: int
    world_size: int = 1
    before: Ended | None = None


class Facts(BaseModel):
    """page/facts.json."""

    command: str = ""
    folder: str = ""
    machine: dict[str, Scalar] = {}
    versions: dict[str, Scalar] = {}
    data: dict[str, Scalar] = {}
    classes: list[str] = []
    parameters: int | None = None
    flop_per_image: int | None = Field(default=None, ge=0, lt=10**30)
    peak_flop_per_second: float | None = Field(default=None, ge=0, lt=1e30)
    precision: str | None = None
    total_steps: int | None = None
    steps_per_epoch: int | None = None
    images_per_epoch: int | None = None
    defaults: dict[str, Scalar | list[Scalar] | dict[str, Scalar | list[Scalar]]] = {}
    starts: list[StartFacts] = []


class Status(BaseModel):
    """status.json."""

    state: str = "unknown"
    exit_code: int | None = None
    reason: str | None = None
    step: int | None = None


class Verdict(BaseModel):
    """What summary.json says of the cross-check."""

    verdict: str
    max_eta: float | str | None = None
    steps_checked: int = 0


class Summary(BaseModel):
    """summary.json."""

    test_accuracy: float | None = None
    test_loss: float | None = None
    train_loss: float | None = None
    images_per_second: float | None = None
    skipped_steps: int | None = None
    weights_sha256: str | None = None
    crosscheck: Verdict | None = None


class Finding(BaseModel):
    """A disagreement that the cross-check found."""

    step: int
    tensor: str
    slot: str
    cause: str = ""
    check: str = ""
    recorded: float | None = None
    expected: float | None = None
    eta: float = math.inf

    @property
    def numbers(self) -> str:
        """What was recorded and what it was compared with, in the words of the cross-check's report;
        empty without such numbers.
        """
        if self.recorded is None or self.expected is None:
            return ""
        if self.check == "replicas":
            return f"{self.recorded:.9g} here, {self.expected:.9g} on the lowest rank"
        return f"recorded {self.recorded:.9g}, expected {self.expected:.9g}, eta {self.eta:.4g}"


class Power(BaseModel):
    """The smallest relative error of a hyperparameter that would have been caught."""

    element: float | str
    aggregate: float | str


class Crosscheck(BaseModel):
    """crosscheck.json."""

    verdict: str
    reason: str = ""
    optimizer: str = ""
    rule: str = ""
    profiles: list[str] = []
    max_eta: float | str | None = None
    worst: str = ""
    findings: list[Finding] = []
    warnings: list[str] = []
    not_tested: list[str] = []
    claims_not_tested: list[str] = []
    checks: dict[str, str] = {}
    power: dict[str, dict[str, Power]] = {}
    steps: int = 0
    tensors: int = 0
    elements: int = 0


class Image(BaseModel):
    """A training image as the network saw it."""

    label: str
    png: str  # base64


class Images(BaseModel):
    """page/images.json."""

    step: int
    augmented: bool
    images: list[Image]


class Mistake(BaseModel):
    """A test image that the network got wrong."""

    label: str
    predicted: str
    loss: float
    png: str  # base64


class Mistakes(BaseModel):
    """page/mistakes.json."""

    classes: list[str]
    confusion: list[list[int]]  # true class, predicted class; empty where the classes are too many
    worst: list[Mistake]

    @model_validator(mode="after")
    def _one_row_and_column_a_class(self) -> Self:
        sides = {len(self.confusion), *map(len, self.confusion)}
        if not sides <= {len(self.classes)} and self.confusion:
            raise ValueError("confusion needs a row and a column for each class")
        return self


@dataclass(frozen=True, slots=True)
class RunFiles:
    """All that the page shows of a run. What is missing is None, and what is damaged as well; `damaged` says which that is."""

    name: str
    steps: Lines
    epochs: Lines
    facts: Facts
    status: Status
    summary: Summary | None
    crosscheck: Crosscheck | None
    images: Images | None
    mistakes: Mistakes | None
    config: Mapping[str, Any]  # by dotted key
    has_crosscheck_page: bool
    has_profile: bool
    damaged: list[str] = field(default_factory=list[str])


Model = TypeVar("Model", bound=BaseModel)


def read_run(folder: Path) -> RunFiles:
    """Read a run's folder. Raises OSError where metrics.jsonl cannot be read, and ValueError where it is no regular file."""
    damaged: list[str] = []

    def part(name: str, model: type[Model]) -> Model | None:
        try:
            return model.model_validate(read_json(folder / name))
        except FileNotFoundError:
            return None
        except (OSError, ValueError):  # pydantic's error is a ValueError
            damaged.append(name)
            return None

    steps, epochs = curves.read(folder / layout.METRICS)
    return RunFiles(
        name=folder.resolve().name,
        steps=steps,
        epochs=epochs,
        facts=part(layout.FACTS, Facts) or Facts(),
        status=part(layout.STATUS, Status) or Status(),
        summary=part(layout.SUMMARY, Summary),
        crosscheck=part(layout.CROSSCHECK, Crosscheck),
        images=part(layout.IMAGES, Images),
        mistakes=part(layout.MISTAKES, Mistakes),
        config=_config(folder / layout.CONFIG, damaged),
        has_crosscheck_page=(folder / layout.CROSSCHECK_PAGE).is_file(),
        has_profile=(folder / layout.PROFILE_TABLE).is_file() and (folder / layout.PROFILE_TRACE).is_file(),
        damaged=damaged,
    )


def _config(path: Path, damaged: list[str]) -> dict[str, Any]:
    """Return the value of each dotted key of the resolved configuration."""
    if not path.exists():
        return {}
    try:
        table = read_toml(path)
    except (OSError, BadInput):
        damaged.append(path.name)
        return {}
    sections = {section: cast(dict[str, Any], values) for section, values in table.items() if isinstance(values, dict)}
    return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
