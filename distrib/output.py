"""The run's folder and what is shown while it runs."""

import time
from pathlib import Path
from typing import Annotated

from pydantic import Field

from distrib.config.section import Section


class OutputConfig(Section):
    """Where the run writes, and what it shows."""

    dir: str | None = None
    """The run's folder; none means runs/<recipe>-<time>."""
    quiet: bool = False
    """No progress bar and no line per epoch; the closing line and errors stay."""
    trackers: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Experiment trackers that Accelerate knows and that are installed, such as `["tensorboard"]`."""


def default_folder(recipe: Path) -> Path:
    return Path("runs") / f"{recipe.stem}-{time.strftime('%Y%m%d-%H%M%S')}"
