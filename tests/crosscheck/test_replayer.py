"""Tests what `replay` is called with."""

from pathlib import Path

import pytest
import torch

from crosscheck import Recorder, TraceError, replay
from tests.crosscheck.recording import make_parameters, take_steps


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parameters = make_parameters((3, 4))
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    folder = tmp_path_factory.mktemp("recorded") / "trace"
    with Recorder(optimizer, folder):
        take_steps(optimizer, parameters, range(2))
    return folder


def test_one_check_can_be_required_by_its_name(trace: Path) -> None:
    assert replay(trace, require="optimizer").verdict == "match"
    with pytest.raises(TraceError, match="clipping was not recorded; what was recorded: optimizer, continuity"):
        replay(trace, require="clipping")


def test_a_check_that_does_not_exist_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="require: there is no check 'learning-rate'; accepted are optimizer, clipping, "
    ):
        replay(tmp_path / "none", require=["optimizer", "learning-rate"])
