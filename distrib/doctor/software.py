"""Looks for the packages that a run needs, and for those that only some of it needs."""

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from distrib.doctor.finding import Finding, fails, note, ok

TRAINING = {
    "torch": (2, 11),
    "torchvision": (0, 26),
    "accelerate": (1, 10),
    "numpy": (2, 0),
    "safetensors": (0, 5),
    "pydantic": (2, 12),
    "pillow": (11, 0),
    "psutil": (5, 9),
    "tqdm": (4, 67),
    "tomli-w": (1, 2),
}
"""Without these, or with older ones, nothing trains: what pyproject.toml says of the project and its extra `train`."""
_REPLAY = ("jax", "optax")


def look() -> Iterator[Finding]:
    """Yield a finding for Python, for what training needs, and for what a replay needs."""
    yield ok("python", f"{platform.python_version()} ({sys.executable})")
    found = {name: _version(name) for name in (*TRAINING, *_REPLAY)}
    wrong = [name for name, least in TRAINING.items() if not _is_at_least(found[name], least)]
    there = ", ".join(f"{name} {found[name] or 'missing'}" for name in TRAINING)
    if wrong:
        yield fails(
            "packages",
            f"{there}: {', '.join(wrong)} missing or too old",
            "pip install '.[train]' in a clone of Twinstep, or make env there",
        )
    else:
        yield ok("packages", there)
    missing = [name for name in _REPLAY if found[name] is None]
    if missing:
        yield note(
            "cross-check",
            f"{' and '.join(missing)} not installed: a run records, and the replay is left to another machine",
            "pip install '.[replay]' in a clone of Twinstep",
        )
    else:
        yield ok("cross-check", ", ".join(f"{name} {found[name]}" for name in _REPLAY))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _is_at_least(found: str | None, least: tuple[int, int]) -> bool:
    """Compare the first two numbers. A version that has no such numbers is nobody's release, and is believed."""
    if found is None:
        return False
    numbers = found.split("+")[0].split(".")[:2]
    return not all(number.isdecimal() for number in numbers) or tuple(map(int, numbers)) >= least
