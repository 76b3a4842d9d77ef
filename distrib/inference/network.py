"""Loads from a run's folder, or from one of its checkpoints, a network that says how probable each class is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from distrib.checkpoint import state, store
from distrib.checkpoint.values import Inference, Saved, checked
from distrib.data.batches.normalize import Normalize
from distrib.data.decoding.decoder import decode
from distrib.errors import BadInput
from distrib.layout import CHECKPOINTS
from distrib.networks.build import build_network, takes_size
from distrib.networks.config import ModelConfig
from distrib.networks.factory import is_foreign
from distrib.networks.views import AveragedViews


@dataclass(frozen=True, slots=True)
class Classifier:
    """A trained network with all that using it takes."""

    views: AveragedViews
    """The network, averaged over the views of `training.tta`: (N, C, H, W) normalised -> (N, classes) float32 logits."""
    classes: Sequence[str]
    mean: Sequence[float]
    """Of each channel of the training images, in [0, 1]."""
    std: Sequence[float]
    image_size: int
    """Pixels, height and width."""
    normalize: Normalize
    path: Path
    """The checkpoint that it is from."""

    @property
    def network(self) -> nn.Module:
        """The network alone: (N, C, H, W) normalised -> (N, classes) logits of one view."""
        return self.views.network

    def probabilities(self, images: Tensor) -> Tensor:
        """(N, image_size, image_size, C) uint8 -> (N, classes) float32, which add up to one for each image."""
        with torch.inference_mode():
            logits: Tensor = self.views(self.normalize(images))
            return logits.softmax(dim=1)

    def predict(self, files: Sequence[str | Path]) -> list[dict[str, float]]:
        """Return for each image file how probable each class is, the most probable first. Raises BadInput, and OSError."""
        images = decode([Path(file) for file in files], size=self.image_size, place="those given")[0]
        found = self.probabilities(images.to(self.normalize.scale.device)).cpu()
        return [
            {self.classes[int(which)]: float(its[which]) for which in its.argsort(descending=True)} for its in found
        ]


def load(path: Path, device: torch.device, *, network: str | None = None, best: bool = False) -> Classifier:
    """Return the network of a run, from the newest checkpoint in its folder that is whole, or of a checkpoint.

    With `best` it is the one that had the best test accuracy, which a run keeps with `checkpoint.best`.

    Evaluation takes the moving average of the weights where there is one, and so does this. A network that is made by code which
    is not the project's is only made if the caller names that code, as `network`: a checkpoint from somewhere else must not
    choose what is imported and called. Raises BadInput, and OSError for a disk that breaks.
    """
    checkpoint = _best(path, _checkpoint(path)) if best else _checkpoint(path)
    saved = checked(checkpoint.path, checkpoint.step, checkpoint.values)
    how = saved.inference
    config = _model_config(checkpoint.path, saved)
    if len(how.mean) != len(how.std) or not takes_size(config, how.image_size):
        raise BadInput(f"checkpoint {checkpoint.path}: its manifest holds what no run writes; take another checkpoint")
    _expect_permission(checkpoint.path, config.name, network)
    made = build_network(config, len(how.classes)).to(device)
    state.restore_network(checkpoint, made)
    return Classifier(
        AveragedViews(made, how.tta).eval(),
        how.classes,
        how.mean,
        how.std,
        how.image_size,
        _normalize(how, device),
        checkpoint.path,
    )


def _checkpoint(path: Path) -> store.Checkpoint:
    """Raises BadInput."""
    folder = path / CHECKPOINTS
    if folder.is_dir():
        newest, passed = store.newest_valid(folder)
        if newest is None:
            why = f" ({'; '.join(passed)})" if passed else ""
            raise BadInput(f"{path} holds no checkpoint that is whole{why}: train in it first, or name another run")
        return newest
    try:
        return store.open_checkpoint(path)
    except store.Damaged as error:
        raise BadInput(
            f"{path} is neither the folder of a run, which holds checkpoints/, nor a whole checkpoint ({error})"
        ) from None


def _best(path: Path, newest: store.Checkpoint) -> store.Checkpoint:
    """Return the checkpoint that the newest one of the run calls the best. Raises BadInput."""
    step = checked(newest.path, newest.step, newest.values).best_step
    if step is None:
        raise BadInput(f"{path}: no evaluation has told yet which checkpoint is the best: take the newest one")
    there = store.checkpoint_path(newest.path.parent, step)
    try:
        return store.open_checkpoint(there)
    except store.Damaged as error:
        raise BadInput(
            f"the best checkpoint of {path} is {there.name}, and it cannot be taken ({error}): a run keeps it "
            "if checkpoint.best is set when it is evaluated"
        ) from None


def _model_config(path: Path, saved: Saved) -> ModelConfig:
    section = "model."
    values = {key.removeprefix(section): value for key, value in saved.config.items() if key.startswith(section)}
    try:
        return ModelConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = section + ".".join(map(str, first["loc"]))
        raise BadInput(f"checkpoint {path}: {key}: {first['msg']}; take another checkpoint") from None


def _expect_permission(path: Path, name: str, network: str | None) -> None:
    """Raise BadInput unless the network is the project's, or the caller named the code that makes it."""
    if network not in (name, None):
        raise BadInput(
            f"network {network}: checkpoint {path} holds a network made by {name}; leave it out, or name that"
        )
    if is_foreign(name) and network is None:
        raise BadInput(
            f"checkpoint {path} holds a network made by {name}, which is code that is not part of this program and is not run "
            f"unasked: say --network {name} if you trust it (in Python network={name!r})"
        )


def _normalize(how: Inference, device: torch.device) -> Normalize:
    return Normalize(torch.tensor(how.mean), torch.tensor(how.std), device, channels_last=False)
