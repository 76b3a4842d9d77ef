"""When checkpoints are written, how many stay, and where a run continues from."""

from distrib.config.section import Positive, PositiveNumber, Section


class CheckpointConfig(Section):
    """Checkpoints: one at each epoch's end, and more on request."""

    every_steps: Positive | None = None
    """Also after every so many steps."""
    every_minutes: PositiveNumber | None = None
    """Also when so many minutes have passed since the last one (by rank 0's clock)."""
    keep: Positive = 3
    """How many checkpoints stay; older ones are deleted once the newer one was read back from the disk."""
    best: bool = False
    """Keep the checkpoint with the best test accuracy as well; `twinstep predict --best` takes it."""
    resume: str = "auto"
    """auto: continue from the newest valid checkpoint in the run's folder, if there is one; never: refuse a folder
    that has any; or the path of one checkpoint, which a run in a folder of its own goes on from. Once that run has
    checkpoints, the same path continues from the newest of them."""
