"""Says when checkpoints are written, how many stay, and where a run continues from."""

from distrib.config.section import Positive, PositiveNumber, Section


class CheckpointConfig(Section):
    """When checkpoints are written: at the end of each epoch, and more often if these keys say so."""

    every_steps: Positive | None = None
    """Write a checkpoint also after every so many steps."""
    every_minutes: PositiveNumber | None = None
    """Write a checkpoint also when so many minutes have passed since the last one, by rank 0's clock."""
    keep: Positive = 3
    """How many checkpoints are kept. Older ones are deleted once the newer one was read back from the disk."""
    best: bool = False
    """Keep the checkpoint with the best test accuracy as well; `twinstep predict --best` takes it."""
    resume: str = "auto"
    """auto: continue from the newest valid checkpoint in the run's folder, if there is one; never: refuse a folder
    that has any; or the path of one checkpoint, which a run in a folder of its own goes on from. Once that run has
    checkpoints, the same path continues from the newest of them."""
