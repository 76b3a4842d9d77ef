"""The power of a record is that of its rows, also where an option that shapes the formula changes within it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from crosscheck import Recorder, Report, Verdict, replay
from tests.crosscheck.recording import make_parameters, take_steps


def _replayed(trace: Path, first: dict[str, Any], then: dict[str, Any]) -> Report:
    """Record four steps of Adam, with one value of an option in the first two and another one in the others, and replay them."""
    parameters = make_parameters((64, 8))
    optimizer = torch.optim.Adam(parameters, lr=1e-3, **first)
    with Recorder(optimizer, trace):
        take_steps(optimizer, parameters, (1, 2))
        optimizer.param_groups[0].update(then)
        take_steps(optimizer, parameters, (3, 4))
    return replay(trace)


def test_amsgrad_may_end_within_a_record(tmp_path: Path) -> None:
    """The steps before have a slot more than those after."""
    changed = _replayed(tmp_path / "changed", {"amsgrad": True}, {"amsgrad": False})
    assert changed.verdict is Verdict.MATCH
    unchanged = _replayed(tmp_path / "unchanged", {"amsgrad": True}, {})
    for name, power in unchanged.power["group 0"].items():
        assert changed.power["group 0"][name].smallest == pytest.approx(power.smallest, rel=0.5)
