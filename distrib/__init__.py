"""The Twinstep trainer: data-parallel training of image networks with fused optimizers under Accelerate.

    from distrib import RunConfig, load_run, train
    run = train(RunConfig.from_recipe("quickstart", {"training.epochs": 1}))
    print(run.summary["test_accuracy"], run.verdict, load_run(run.folder).steps["loss"])

Importing this package imports nothing that takes time: torch comes when one of these names is asked for.
"""

from typing import TYPE_CHECKING, Any

from distrib.errors import BadInput, RunFault

if TYPE_CHECKING:
    from distrib.api import load_run, train
    from distrib.inference.saved_run import SavedRun
    from distrib.job.stop import Stopped
    from distrib.training.recipe import RunConfig

__all__ = ["BadInput", "RunConfig", "RunFault", "SavedRun", "Stopped", "load_run", "train"]

_HOMES = {
    "RunConfig": "distrib.training.recipe",
    "SavedRun": "distrib.inference.saved_run",
    "Stopped": "distrib.job.stop",
    "load_run": "distrib.api",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name == "train":  # both a module, for python -m, and what training is called in Python: see there
        return import_module("distrib.train")
    if name not in _HOMES:
        raise AttributeError(f"module 'distrib' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
