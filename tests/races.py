"""Plays what another process does at the worst moment."""

from pathlib import Path
from typing import Any

import pytest


def another_makes_it_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have another process make the next folder that this one is about to make."""
    make = Path.mkdir

    def as_another_did(folder: Path, *how: Any, **options: Any) -> None:
        monkeypatch.setattr(Path, "mkdir", make)
        make(folder, parents=True)
        make(folder, *how, **options)

    monkeypatch.setattr(Path, "mkdir", as_another_did)
