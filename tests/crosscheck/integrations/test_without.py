"""An integration without its library names the line that installs it; none imports JAX."""

import pytest

from tests.support import JAX, run_without

PACKAGES = {"accelerate": "accelerate", "lightning": "lightning", "transformers": "transformers"}


@pytest.mark.parametrize("name", PACKAGES)
def test_without_its_library(name: str) -> None:
    result = run_without((PACKAGES[name],), f"import crosscheck.integrations.{name}")
    assert result.returncode != 0
    assert f"crosscheck.integrations.{name} needs" in result.stderr
    assert f"pip install '{name}>=" in result.stderr


def test_without_jax() -> None:
    assert run_without(JAX, "import crosscheck.integrations.accelerate").returncode == 0
