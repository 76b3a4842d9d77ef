"""Defines the table [training] of a recipe: length, batches, seed, clipping, evaluation and time-outs."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from distrib.checkpoint.progress import Progress
from distrib.config.section import Positive, PositiveNumber, Section
from distrib.networks.views import Tta


class TrainingConfig(Section):
    """Length of the training, batches, seed, clipping, evaluation and time-outs."""

    epochs: Positive = 3
    """Passes over the training set."""
    batch_size: Positive = 128
    """Images per update, over all ranks and accumulation parts: the global batch."""
    last_batch: Literal["drop", "mask"] = "drop"
    """When the batch size does not divide the training set: drop the rest of each epoch's order,
    or train on it as a smaller batch."""
    eval_batch_size: Positive = 512
    """Images per rank and forward pass in evaluation; no effect on the result."""
    tta: Tta = "none"
    """Test-time augmentation, in evaluation and in all that uses the network: the mean of the logits of each image and its mirror
    image (flip), or of these and the same moved by a pixel (flip_shift); 2 and 6 times the work."""
    accumulate: Positive = 1
    """Parts in which each rank computes its share of a batch, to save memory; must divide batch_size."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Initial weights, order and augmentation follow from it."""
    stop_at_accuracy: Annotated[float, Field(gt=0, le=1)] | None = None
    """End the run after the first epoch whose test accuracy is at least this, from 0 to 1. none trains all epochs."""
    patience: Positive | None = None
    """End the run after so many epochs in a row whose test accuracy was not better than the best before them. none trains all
    epochs."""
    clip_norm: PositiveNumber | None = None
    """Scale gradients down to this global 2-norm (torch's clip_grad_norm_)."""
    clip_value: PositiveNumber | None = None
    """Clamp each gradient element to [-clip_value, clip_value] (torch's clip_grad_value_)."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of an exponential moving average of the weights, taken after each applied update; evaluation uses it."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label spread over all classes, in training only."""
    compile: bool = False
    """Compile the network with torch.compile (needs a C++ compiler on a CPU)."""
    cuda_graph: bool = False
    """Capture the network's forward and backward pass as CUDA graphs, for small batches on a GPU, whose many launches take longer
    than the work. Not with compile, accumulate or last_batch = mask."""
    deterministic: bool = False
    """Only deterministic algorithms, for bit-identical repeats on a GPU; on a CPU runs repeat anyway."""
    world_size: Positive | None = None
    """How many processes this run is meant to have; any other world is refused. none takes what there is."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads per process; none shares the cores out among the ranks of this machine."""
    check_ranks_every: Positive | None = 100
    """Steps between comparisons, bit for bit, of what the ranks hold (weights, optimizer, moving average); also before
    every checkpoint. A difference ends the run with 1, unsaved. none compares nothing."""
    start_timeout_seconds: Positive = 600
    """How long a rank waits for its peers to come, and then in each stage of the start, such as decoding images.
    Where the ranks do not meet, rank 0 reports it, and the others end up to ten seconds after it."""
    timeout_seconds: Positive = 60
    """How long a rank waits for its peers in a step, or for rank 0 to save, before it gives up.
    A rank whose process is dead or frozen is given up after three quarters of it, and sooner once the run was asked to stop."""

    @model_validator(mode="after")
    def _one_kind_of_clipping(self) -> Self:
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError("training.clip_norm and training.clip_value are both set: choose one kind of clipping")
        return self

    @model_validator(mode="after")
    def _one_size_in_a_graph(self) -> Self:
        others = {
            "training.compile = true": (self.compile, "it captures what torch.compile would have to compile"),
            f"training.accumulate = {self.accumulate}": (
                self.accumulate > 1,
                "a replayed pass overwrites the gradients of the one before",
            ),
            "training.last_batch = mask": (self.last_batch == "mask", "it replays batches of one size"),
        }
        for other, (is_set, why) in others.items():
            if self.cuda_graph and is_set:
                raise ValueError(f"training.cuda_graph = true with {other}: {why}; leave one of the two out")
        return self

    def enough(self, progress: Progress) -> str | None:
        """Return in words why a run that has come so far ends before its last epoch, or None if it goes on.

        It is asked at the end of an epoch.
        """
        return progress.enough(stop_at_accuracy=self.stop_at_accuracy, patience=self.patience)
