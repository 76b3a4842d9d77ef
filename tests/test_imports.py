"""Who may import whom: a cluster without JAX records, a laptop without torch replays."""

import subprocess
import sys

import pytest

_BLOCK = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"blocked: {{name}}")

sys.meta_path.insert(0, Blocker())
import importlib, pkgutil
for name in {modules!r}:
    module = importlib.import_module(name)
    if {whole!r}:
        for inner in pkgutil.walk_packages(getattr(module, "__path__", []), name + "."):
            importlib.import_module(inner.name)
"""
JAX = ("jax", "jaxlib", "optax", "ml_dtypes")
TORCH = ("torch", "torchvision", "accelerate")


@pytest.mark.parametrize(
    ("modules", "blocked", "whole"),
    [
        (["distrib"], JAX, True),
        (["crosscheck"], (*JAX, *TORCH), False),
        (["crosscheck.recorder", "crosscheck.trace.writer"], (*JAX, "distrib"), True),
        (["crosscheck.rules", "crosscheck.replayer", "crosscheck.__main__"], (*TORCH, "distrib"), True),
    ],
    ids=["trainer", "package", "recorder", "replayer"],
)
def test_imports_without(modules: list[str], blocked: tuple[str, ...], whole: bool) -> None:
    script = _BLOCK.format(blocked=blocked, modules=modules, whole=whole)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
