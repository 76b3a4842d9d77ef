"""Puts together every table that a recipe may hold, each from the module whose behaviour it configures."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import Field, model_validator

from distrib.checkpoint.config import CheckpointConfig
from distrib.config.load import resolve_values
from distrib.config.section import Section
from distrib.crosscheck import CrosscheckConfig
from distrib.data.config import DataConfig
from distrib.job.run_folder import OutputConfig
from distrib.launch_files import find_recipe
from distrib.networks.config import ModelConfig
from distrib.optim.optimizer import OptimizerConfig
from distrib.optim.precision import PrecisionConfig
from distrib.optim.schedule import Constant, ScheduleConfig
from distrib.training.config import TrainingConfig
from distrib.training.recomputed_gradient import obstacles

_OF_ONE_MACHINE = ("data.root", "output.quiet")
"""Each machine may keep its files where it likes, and only rank 0 shows anything."""


class RunConfig(Section):
    """The configuration of one whole run.

    In Python: `RunConfig(optimizer={"name": "sgd", "lr": 0.05}, training={"epochs": 1})`, which raises pydantic's
    ValidationError, or `RunConfig.from_recipe("quickstart", {"training.epochs": 1})`.
    """

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    optimizer: OptimizerConfig = Field(discriminator="name")
    schedule: ScheduleConfig = Field(default=Constant(), discriminator="name")
    precision: PrecisionConfig = PrecisionConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    output: OutputConfig = OutputConfig()
    crosscheck: CrosscheckConfig = CrosscheckConfig()

    @model_validator(mode="after")
    def _accumulation_divides_the_batch(self) -> "RunConfig":
        batch, accumulate = self.training.batch_size, self.training.accumulate
        if batch % accumulate:
            raise ValueError(
                f"training.accumulate = {accumulate} does not divide training.batch_size = {batch}: "
                "the parts of one update must hold the same number of images; "
                "choose a divisor, or change the batch size"
            )
        return self

    @model_validator(mode="after")
    def _gradients_can_be_computed_again(self) -> "RunConfig":
        steps = self.crosscheck.gradient_steps if self.crosscheck.record else ()
        for obstacle in obstacles(self.data, self.model, self.training) if steps else ():
            raise ValueError(f"crosscheck.gradient_steps = {list(steps)}: {obstacle}")
        return self

    @classmethod
    def from_recipe(cls, recipe: str | Path, overrides: Mapping[str, Any] | None = None) -> "RunConfig":
        """Return the configuration of a recipe, named by its path or as one of the project's, with other values for some keys.

        `overrides` holds values of Python by dotted key. Raises BadInput with every problem found. A warning says what of the
        recipe is left out because another optimizer or schedule was chosen.
        """
        resolved = resolve_values(cls, find_recipe(str(recipe)), dict(overrides or {}), "the overrides")
        for note in resolved.notes:
            warnings.warn(note, stacklevel=2)
        return resolved.config

    def keys(self) -> dict[str, Any]:
        """Return the value of each dotted key, for comparing two runs."""
        table = self.model_dump(mode="json")
        return {f"{section}.{name}": value for section, values in table.items() for name, value in values.items()}

    def non_default_keys(self) -> set[str]:
        """Return the dotted keys whose values are not their defaults, for the run's kinds of optimizer and schedule."""
        table = self.model_dump(exclude_defaults=True)
        return {f"{section}.{name}" for section, values in table.items() for name in values}

    def keys_of_all_ranks(self) -> dict[str, Any]:
        """Return the value of each dotted key that must be the same on all ranks."""
        return {key: value for key, value in self.keys().items() if key not in _OF_ONE_MACHINE}

    def to_toml(self) -> str:
        """Return the resolved configuration, itself a recipe that repeats the run."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))
