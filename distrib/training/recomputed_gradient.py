"""Says which configurations the twin in JAX can compute the gradient of once more."""

from collections.abc import Iterator

from distrib.data.config import DataConfig
from distrib.networks.config import ModelConfig
from distrib.training.config import TrainingConfig

_TWIN = "article"  # the network that crosscheck/twin has in JAX


def obstacles(data: DataConfig, model: ModelConfig, training: TrainingConfig) -> Iterator[str]:
    """Yield a sentence for each value with which no gradient can be computed again, and what to do about it."""
    for key in ("compile", "cuda_graph"):
        if getattr(training, key):
            yield f"the pooling inside a network cannot be watched with training.{key} = true; leave one of the two out"
    if model.name != _TWIN:
        yield (
            f"the twin that computes the gradient again has the network {_TWIN}, and model.name = {model.name}; "
            "set crosscheck.gradient_steps = []"
        )
    for key in ("mixup", "cutmix"):
        if getattr(data, key):
            yield (
                f"the twin that computes the gradient again takes one label an image, and with data.{key} = {getattr(data, key)} "
                "an image has two; set crosscheck.gradient_steps = []"
            )
