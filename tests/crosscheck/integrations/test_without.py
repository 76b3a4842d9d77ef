"""An integration without its library names the line that installs it."""

from tests.support import JAX, run_without

_IMPORT = """
from importlib import import_module
for name in ("accelerate", "lightning", "transformers"):
    try:
        import_module("crosscheck.integrations." + name)
    except ImportError as error:
        print(error)
"""


def test_without_its_library() -> None:
    result = run_without(("accelerate", "lightning", "transformers", *JAX), _IMPORT)
    assert result.returncode == 0, result.stderr
    accelerate, lightning, transformers = result.stdout.splitlines()
    assert accelerate.endswith(
        "crosscheck.integrations.accelerate needs Hugging Face Accelerate: pip install 'accelerate>=1.10'"
    )
    assert lightning == "crosscheck.integrations.lightning needs Lightning: pip install 'lightning>=2.6'"
    assert "needs Hugging Face" in transformers
