"""Every table that a recipe may hold: the sections, each from the module whose behaviour it configures."""

from typing import Any

import tomli_w
from pydantic import Field, model_validator

from distrib.checkpoint.config import CheckpointConfig
from distrib.config.section import Section
from distrib.crosscheck import CrosscheckConfig
from distrib.data.config import DataConfig
from distrib.job.run_folder import OutputConfig
from distrib.optim.optimizer import OptimizerConfig
from distrib.optim.precision import PrecisionConfig
from distrib.optim.schedule import Constant, ScheduleConfig
from distrib.training.config import TrainingConfig
from distrib.training.model import ModelConfig


class RunConfig(Section):
    """The configuration of one whole run."""

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

    def keys(self) -> dict[str, Any]:
        """Return the value of each dotted key, for comparing two runs."""
        table = self.model_dump(mode="json")
        return {f"{section}.{name}": value for section, values in table.items() for name, value in values.items()}

    def to_toml(self) -> str:
        """Return the resolved configuration, itself a recipe that repeats the run."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))
