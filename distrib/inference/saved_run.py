"""Gives programs a run as its folder holds it: configuration, summary, curves and the network."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from distrib.config.load import load as load_config
from distrib.errors import BadInput
from distrib.files import read_json
from distrib.inference.network import Classifier, load
from distrib.layout import CONFIG, METRICS, SUMMARY
from distrib.page import curves
from distrib.page.curves import Column, Lines
from distrib.training.recipe import RunConfig


@dataclass(frozen=True)
class SavedRun:
    """The run in a folder. Each part is read when it is first asked for, and raises BadInput if it is missing or damaged."""

    folder: Path

    def __post_init__(self) -> None:
        if not (self.folder / CONFIG).is_file():
            raise BadInput(f"{self.folder} is not the folder of a run: it holds no config.toml")

    @cached_property
    def config(self) -> RunConfig:
        """The resolved configuration."""
        return load_config(RunConfig, self.folder / CONFIG)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What summary.json says: accuracy, losses, counts, the sha256 of the weights, the verdict."""
        path = self.folder / SUMMARY
        try:
            found = read_json(path)
        except FileNotFoundError:
            raise BadInput(
                f"{path} is missing: the run has not come to its end yet; the same command continues it"
            ) from None
        except ValueError as error:
            raise BadInput(f"{path} is damaged ({error}): train in another folder") from None
        if not isinstance(found, dict):
            raise BadInput(f"{path} is damaged: it holds no table; train in another folder")
        return cast("dict[str, Any]", found)

    @property
    def verdict(self) -> str:
        """The verdict of the cross-check: match, mismatch, vacuous, not replayed or not recorded."""
        return str(self.summary.get("crosscheck", {}).get("verdict"))

    @property
    def steps(self) -> Mapping[str, Column]:
        """The curves over steps by name, loss and lr among them, and the steps themselves as `step`; NaN where one is missing."""
        return _columns(self._lines[0])

    @property
    def epochs(self) -> Mapping[str, Column]:
        """The curves over epochs by name, test_accuracy and test_loss among them, and the last step of each as `step`."""
        return _columns(self._lines[1])

    @cached_property
    def _lines(self) -> tuple[Lines, Lines]:
        path = self.folder / METRICS
        try:
            return curves.read(path)
        except ValueError as error:
            raise BadInput(f"{path} is not the metrics of a run ({error})") from None

    def classifier(
        self, device: str | torch.device = "cpu", *, network: str | None = None, best: bool = False
    ) -> Classifier:
        """Return the network of the newest checkpoint that is whole, or of the `best` one, with all that using it takes.

        A network that is made by code of somebody else's is only made if `network` names that code, as `model.name` did.
        """
        return load(self.folder, torch.device(device), network=network, best=best)


def _columns(lines: Lines) -> dict[str, Column]:
    """Return the columns that hold any number."""
    return {"step": lines.steps} | {name: column for name, column in lines.values.items() if np.isfinite(column).any()}
