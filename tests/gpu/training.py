"""The real trainer in a process of its own, watched from outside."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrib.system import kill_with_parent
from tests.gpu.part import Setting
from tests.support import RECIPES, ROOT, SMALL

_LOOK_EVERY = 0.01  # seconds


class Failed(Exception):
    """The trainer ended otherwise than expected; the message is its own last line."""


@dataclass(slots=True)
class Trainer:
    """A trainer that runs."""

    process: "subprocess.Popen[str]"
    folder: Path
    began: float

    def wait_for_step(self, step: int) -> float:
        """Wait until metrics.jsonl tells of this step; seconds since the process was started. Raises Failed."""
        while self._last_step() < step:
            if self.process.poll() is not None:
                self.expect(-1)
            time.sleep(_LOOK_EVERY)
        return time.monotonic() - self.began

    def expect(self, code: int) -> None:
        """Wait for the process's end. Raises Failed for another exit code."""
        _, error = self.process.communicate()
        if self.process.returncode != code:
            last = error.strip().splitlines() or ["it said nothing"]
            raise Failed(f"the trainer ended with {self.process.returncode}: {last[-1]}")

    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))

    def _last_step(self) -> int:
        try:
            lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return 0
        return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


def arguments(setting: Setting, *more: str) -> list[str]:
    """Overrides of every run: the images, and few of them in a rehearsal, where a recipe does not record."""
    source = "synthetic" if setting.images is None else f"folder:{setting.images}"
    return [*(SMALL if setting.small else ()), f"--data.source={source}", "--output.quiet=true", *more]


def start(recipe: str, folder: Path, overrides: Sequence[str]) -> Trainer:
    """Start `python -m distrib.train` on a recipe that comes with the project."""
    command = [
        *kill_with_parent(),
        sys.executable,
        "-m",
        "distrib.train",
        str(RECIPES / f"{recipe}.toml"),
        *overrides,
        f"--output.dir={folder}",
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    return Trainer(process, folder, time.monotonic())
