"""Python imports this when it starts below `python -m crosscheck record`, whose PYTHONPATH leads here.

It waits until the script has imported torch, and then for the first step of each optimizer. It leaves `sys.path` as it would be
without it, and imports another `sitecustomize`, which this one hides.
"""

import importlib
import importlib.util
import json
import os
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

FOLDER = "CROSSCHECK_RECORD"
"""Environment: the folder that takes the traces, and the list of optimizers."""
RULE = "CROSSCHECK_RECORD_RULE"
"""Environment: the formula that the optimizers claim; `auto` goes by the class."""
LIST = "optimizers.jsonl"
"""Every optimizer that stepped, one JSON object a line: `optimizer` is its class, and `trace` where it is recorded, or
`refused` why it is not.
"""


class _AfterTorch:
    """Finds torch as Python would, and calls `then` when it is imported."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return what the other finders find; whoever only asks whether torch is there does not import it."""
        if name != "torch":
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        loader: Any = spec and spec.loader
        if loader is not None:
            load = loader.exec_module

            def load_and_go_on(module: ModuleType) -> None:
                del loader.exec_module
                load(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)  # pyright: ignore[reportArgumentType]
                    self._then()

            loader.exec_module = load_and_go_on
        return spec


def _watch_steps() -> None:
    """Have each optimizer recorded from its first step on."""
    import torch
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    seen = weakref.WeakSet[torch.optim.Optimizer]()

    def before_step(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        if optimizer in seen:
            return
        seen.add(optimizer)
        try:
            _import_crosscheck()
            from crosscheck.recorder.unmodified import record

            trace = record(optimizer, Path(os.environ[FOLDER]), os.environ.get(RULE, "auto"))
            _tell(optimizer, trace=trace.name)
        except Exception as error:  # whatever it is, the script goes on
            ours = type(error).__module__.startswith("crosscheck.")
            with suppress(Exception):  # the disk may be full, or the folder gone
                _tell(optimizer, refused=str(error) if ours else f"{type(error).__name__}: {error}")

    register_optimizer_step_pre_hook(torch.compiler.disable(before_step))  # pyright: ignore[reportArgumentType]


def _import_crosscheck() -> None:
    """Import the package that this file belongs to, wherever it is: the script may not be able to find it by itself."""
    if "crosscheck" in sys.modules:
        return
    home = Path(__file__).parents[1]
    spec = importlib.util.spec_from_file_location(
        "crosscheck", home / "__init__.py", submodule_search_locations=[str(home)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["crosscheck"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def _tell(optimizer: object, **what: str) -> None:
    """Add a line to the list. Lines of several processes do not mix: each is one write to the end of the file."""
    kind = type(optimizer)
    line = json.dumps({"optimizer": f"{kind.__module__}.{kind.__qualname__}", **what}) + "\n"
    descriptor = os.open(Path(os.environ[FOLDER]) / LIST, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def _import_the_other() -> None:
    """Import the `sitecustomize` that Python would have imported, if there is one."""
    here = str(Path(__file__).parent)
    sys.path[:] = [entry for entry in sys.path if entry != here]
    mine = sys.modules.pop(__name__)
    try:
        importlib.import_module(__name__)
    except ModuleNotFoundError as error:
        if error.name != __name__:
            raise
    finally:
        sys.modules.setdefault(__name__, mine)


if __name__ == "sitecustomize":  # otherwise somebody imports it as crosscheck.startup.sitecustomize
    if FOLDER in os.environ:
        sys.meta_path.insert(0, _AfterTorch(_watch_steps))  # pyright: ignore[reportArgumentType]
    _import_the_other()
