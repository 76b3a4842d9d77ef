"""What the interpreter lacks, said before anything runs, with the commands that bring it to a machine without a network."""

import importlib
import platform
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).parent.parent.parent
_OF_TESTS = ("pytest", "pytest-timeout")
"""Of the development tools, those that the marked tests need."""
_IMPORTED = ("packaging", "numpy", "pydantic", "safetensors", "tomli_w", "tqdm", "PIL", "ml_dtypes", "pytest")
"""Small modules whose import shows whether what they need in their turn is there as well."""


def problem() -> str:
    """One line that says what is missing and how to bring it; empty if nothing is."""
    wanted = missing()
    return instructions(wanted) if wanted else ""


def missing() -> list[str]:
    """What must be installed, as pip takes it: `pydantic>=2.12`."""
    wanted = [need for need in needs() if not is_met(need)]
    if wanted:
        return wanted
    return [name for name in map(_cannot_import, _IMPORTED) if name]


def needs() -> list[str]:
    """The requirements of the trainer, the replay and the marked tests, as pyproject.toml has them."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    tools = [need for need in extras["dev"] if _name(need) in _OF_TESTS]
    return [need.replace(" ", "") for need in (*project["dependencies"], *extras["train"], *extras["replay"], *tools)]


def is_met(need: str) -> bool:
    """Whether a version that is high enough is installed; only `>=` counts."""
    try:
        there = metadata.version(_name(need))
    except metadata.PackageNotFoundError:
        return False
    least = re.search(r">=([\d.]+)", need)
    return least is None or _numbers(there) >= _numbers(least[1])


def instructions(wanted: Iterable[str]) -> str:
    """What is missing, and two commands: one for a machine with a network, one for this one."""
    names = sorted(wanted)
    quoted = " ".join(f"'{name}'" for name in names)
    major, minor = sys.version_info[:2]
    architecture = platform.machine()
    platforms = " ".join(f"--platform manylinux{tag}_{architecture}" for tag in ("_2_28", "_2_17", "2014"))
    return (
        f"missing here: {', '.join(names)}. On a machine with a network: python -m pip download --only-binary=:all: "
        f"--python-version {major}.{minor} {platforms} -d wheels {quoted}; then here: python -m pip install "
        f"--no-index --find-links wheels --target DIR {quoted}, and PYTHONPATH=DIR"
    )


def _cannot_import(name: str) -> str:
    """The package that its import lacks; empty if it lacks none."""
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        return (error.name or name).partition(".")[0].replace("_", "-")
    except Exception:  # such as pydantic beside another pydantic-core than its own
        return name.replace("_", "-")
    return ""


def _name(need: str) -> str:
    found = re.match(r"[\w-]+", need)
    assert found is not None, need
    return found[0]


def _numbers(version: str) -> tuple[int, ...]:
    """`2.11.0+cu130` as (2, 11, 0); what follows the numbers does not count."""
    release = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, release[0].split("."))) if release else ()
