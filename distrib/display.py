"""Shows a person a progress bar, one line an epoch and a closing line, on rank 0 only."""

import sys
from typing import Any

from tqdm import tqdm

from crosscheck.streams import discard_output
from distrib.text import harmless


class Display:
    """Silent on other ranks; without a bar where standard error is no terminal (batch jobs, pipes)."""

    def __init__(self, *, main: bool, quiet: bool) -> None:
        self._main = main
        self._lines = main and not quiet
        self._bar: tqdm[Any] | None = None

    def say(self, text: str) -> None:
        """Print a line, even for those who asked for quiet."""
        if not self._main:
            return
        try:
            tqdm.write(harmless(text), file=sys.stdout)
            sys.stdout.flush()
        except OSError:  # the terminal, the reader of a pipe or the log's disk is gone: no reason to end a run
            self._main = self._lines = False
            discard_output()

    def line(self, text: str) -> None:
        if self._lines:
            self.say(text)

    def open_bar(self, *, done: int, total: int) -> None:
        """Show a bar that counts images, the unit in which a person thinks of speed."""
        if self._lines and sys.stderr.isatty():
            self._bar = tqdm(
                initial=done, total=total, unit="img", unit_scale=True, dynamic_ncols=True, smoothing=0.05, leave=False
            )

    def advance(self, images: int, loss: float, epoch: str) -> None:
        """Move the bar on; `epoch` is where training is, such as `epoch 2/6`."""
        if self._bar is not None:
            self._bar.set_description_str(epoch, refresh=False)
            self._bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            self._bar.update(images)

    def close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
