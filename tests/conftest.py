"""All test processes share what JAX compiles (`tests.compiled`), and check the types of the criterion and the rules.

Types, the shapes of arrays among them, are checked in the first case of each test function: the others call the same
functions with arrays of the same axes, and checking all of them took a tenth of the time. A machine that only runs the
tests of the GPU may lack beartype; there nothing is checked.
"""

import logging
import os
import signal
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from jaxtyping import config, install_import_hook

from tests import compiled

CHECKED = ("crosscheck.criterion", "crosscheck.rules")
_seen: set[str] = set()
_compiled = compiled.share()

# precision.mode = auto is bf16 on some processors: the tests train in float32 on every one, unless they say otherwise.
os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_VNNI"

# As in the background of a shell, whose children would be deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if find_spec("beartype") is not None:
    from tests import typecheck

    install_import_hook(CHECKED, f"{typecheck.__name__}.checked")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Check types if this is the first case of its test function in this process."""
    function = item.nodeid.partition("[")[0]
    config.update("jaxtyping_disable", function in _seen)
    _seen.add(function)


@pytest.fixture(autouse=True)
def no_warning_of_the_recorder(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test in which the recorder warned and nobody expected it: it logs where warnings are errors, and goes on."""
    yield
    logged = caplog.get_records("call")
    told = [
        it.getMessage() for it in logged if it.name == "crosscheck.recorder.warning" and it.levelno == logging.WARNING
    ]
    assert not told


def pytest_unconfigure() -> None:
    """Remove what was compiled, in the process that made the folder."""
    compiled.forget(_compiled)


@pytest.fixture
def signals_put_back() -> Iterator[None]:
    """Put the handlers of signals back that a command leaves ignored, as its process is about to end."""
    stopping = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
    found = {number: signal.getsignal(number) for number in stopping}
    yield
    for number, handler in found.items():
        signal.signal(number, handler)
