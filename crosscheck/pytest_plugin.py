"""The pytest plugin: a fixture that fails a test unless an optimizer takes the steps of its formula.

pytest loads this module whenever it starts, so it imports neither torch nor JAX before a test asks for the fixture.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from crosscheck.report.report import Report


@pytest.fixture(scope="session")
def check_optimizer() -> "Callable[..., Report]":
    """Check an optimizer against its formula: `check_optimizer(lambda params: MyAdam(params, lr=1e-3), rule="adam")`."""
    try:
        from crosscheck.testing import check_optimizer
    except ModuleNotFoundError as error:
        pytest.fail(
            f"the fixture check_optimizer needs torch and JAX, and {error.name} is not installed: "
            "pip install '.[train,replay]' in a clone of Twinstep",
            pytrace=False,
        )
    return check_optimizer
