"""The configurations with which torch tests its own optimizers give no false alarm."""

import subprocess
import sys

import pytest

from tests.support import ROOT


@pytest.mark.matrix
def test_no_configuration_of_torch_s_own_tests_alarms() -> None:
    command = [sys.executable, "-m", "tests.matrix.torch_configurations"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "; 0 wrong; " in done.stdout
