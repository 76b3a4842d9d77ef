"""What tests of recipes share: the smallest one, and the classes by the names that choose them."""

from collections.abc import Callable

from distrib.optim.optimizer import SGD, Adam, AdamW
from distrib.optim.schedule import Constant, Cosine, Exponential, MultiStep, OneCycle, Step
from distrib.training.recipe import RunConfig

OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
SCHEDULES = {
    "constant": Constant,
    "step": Step,
    "multistep": MultiStep,
    "exponential": Exponential,
    "cosine": Cosine,
    "onecycle": OneCycle,
}
SMALLEST = 'optimizer.name = "sgd"\n'

Load = Callable[..., RunConfig]
Refuse = Callable[..., str]
