"""Who may import whom: a cluster without JAX trains, and importing the cross-check costs nothing."""

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
package = importlib.import_module({package!r})
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
"""


@pytest.mark.parametrize(
    ("package", "blocked"),
    [("distrib", ("jax", "jaxlib", "optax")), ("crosscheck", ("torch", "jax", "jaxlib", "optax"))],
)
def test_package_imports_without(package: str, blocked: tuple[str, ...]) -> None:
    script = _BLOCK.format(blocked=blocked, package=package)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
