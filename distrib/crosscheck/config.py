"""What of a run is recorded, and whether it is replayed."""

from typing import Annotated, Literal

from pydantic import Field

from distrib.config.section import Positive, Section


class CrosscheckConfig(Section):
    """Whether every optimizer step is recorded and then taken again by Optax."""

    record: bool = False
    """Record the optimizer's steps in the run's folder, under trace/."""
    steps: Literal["sampled", "all"] | Annotated[tuple[Positive, ...], Field(strict=False)] = "sampled"
    """Steps recorded with every element: sampled (the first three, every hundredth, the one after a skip), all, or step numbers."""
    coordinates: Positive = 256
    """Elements of each tensor recorded at every step."""
    gradient_steps: Annotated[tuple[Positive, ...], Field(strict=False)] = ()
    """Steps recorded with their batch, to recompute the gradient itself: 3 MB and a second or two of replay each."""
    replay: bool = True
    """Replay the record when training is over, if JAX and Optax are installed; a mismatch ends the run with 1."""
