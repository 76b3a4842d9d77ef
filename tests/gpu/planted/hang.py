"""A part that never ends, and has started a process that does not end either."""

import subprocess
import sys
import time

from tests.gpu.part import Case, Cases, Figures
from tests.gpu.report import Column


def _hang() -> Figures:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    time.sleep(600)
    raise AssertionError("unreachable")


PART = Cases(
    title="hang",
    columns=(Column(key="x", title="x"),),
    cases=lambda _: [Case("one", lambda: {"x": 1.0}), Case("two", _hang)],
)
