"""Finds what makes a network: the project's own by their names, and code of somebody else, which is imported by its name."""

import hashlib
import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from distrib.errors import BadInput
from distrib.networks.article import article
from distrib.networks.config import OWN
from distrib.networks.resnet18 import resnet18
from distrib.networks.speednet import Speednet

Factory = Callable[..., Any]
"""Takes `num_classes` and the recipe's `model.options`, and should return a torch.nn.Module."""

_OWN: dict[str, Factory] = {"article": article, "resnet18": resnet18, "speednet": Speednet}


@dataclass(frozen=True, slots=True)
class Code:
    """The file that holds a factory which is not the project's."""

    path: Path
    sha256: str


def is_foreign(name: str) -> bool:
    """Return whether this value of `model.name` names code that is not the project's."""
    return name not in OWN


def find_factory(name: str) -> Factory:
    """Return the callable that `model.name` means. This runs the module of somebody else's. Raises BadInput."""
    if not is_foreign(name):
        return _OWN[name]
    module_name, _, path = name.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # at the end, so that a file here takes no library's place
    try:
        found: Any = importlib.import_module(module_name)
    except SystemExit as error:
        raise BadInput(
            f"model.name = {name}: importing {module_name} ended the program ({described(error)}): it is a script as well; "
            'guard what only the script is to do, such as reading its arguments, by `if __name__ == "__main__":`'
        ) from error
    except Exception as error:
        raise BadInput(
            f"model.name = {name}: importing {module_name} raised {described(error)}; Python looks in the current folder and in "
            "those of PYTHONPATH, and what the module itself imports must be installed here"
        ) from error
    for attribute in path.split("."):
        if not hasattr(found, attribute):
            raise BadInput(
                f"model.name = {name}: {getattr(found, '__name__', type(found).__name__)} has no {attribute!r}; "
                f"{_candidates(found, attribute)}"
            )
        found = getattr(found, attribute)
    if not callable(found):
        raise BadInput(
            f"model.name = {name}: {path} is not callable, it is {type(found).__name__}; name a function or class that takes "
            "num_classes and returns a torch.nn.Module"
        )
    return found


def code_of(name: str, factory: Factory) -> Code | None:
    """Return the file that a foreign factory is written in, if it has one that can be read."""
    if not is_foreign(name):
        return None
    try:
        path = Path(inspect.getsourcefile(inspect.unwrap(factory)) or "").resolve()
        return Code(path, hashlib.sha256(path.read_bytes()).hexdigest())
    except (TypeError, OSError):
        return None


def described(error: BaseException) -> str:
    """Return an error of somebody else's code in one line, with the place where it was raised."""
    words = " ".join(str(error).split())[:300]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    if isinstance(error, SyntaxError) and error.filename:
        place = ""  # its words say where
    return f"{type(error).__name__}: {words}{place}"


def _candidates(found: Any, wanted: str) -> str:
    """Say which names could be meant: the callables that are defined where the one asked for was looked for."""
    home = getattr(found, "__name__", None)
    members = {name: getattr(found, name, None) for name in dir(found)}
    names = [name for name, value in members.items() if callable(value) and getattr(value, "__module__", "") == home]
    if near := get_close_matches(wanted, names, n=1):
        return f"did you mean {near[0]}?"
    return f"it defines {', '.join(names[:8])}" if names else "it defines no callable"
