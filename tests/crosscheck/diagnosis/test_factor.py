"""A gradient that is multiplied on its way is told from one that is clipped wrongly, and the factor is measured."""

import re
from pathlib import Path

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

from crosscheck import Recorder, replay
from tests.crosscheck.recording import feed, make_parameters

SAID = re.compile(r"the gradient is multiplied by (\S+) ± (\S+) between backward and the optimizer")


@pytest.mark.parametrize("first", ["multiplied", "clipped"])
@pytest.mark.parametrize("bound", [1e6, 15.0], ids=["not reached", "near"])
@pytest.mark.parametrize("factor", [0.5, 4.0, -1.0])
def test_the_factor_is_named(factor: float, bound: float, first: str, tmp_path: Path) -> None:
    parameters = make_parameters((8, 20))
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    with Recorder(optimizer, tmp_path, clip_norm=bound) as recorder:
        for step in range(1, 7):
            feed(parameters, step)
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.grad *= step / 6  # norms from 2 on, of which only the larger ones are clipped
            recorder.after_backward()
            if first == "clipped":
                clip_grad_norm_(parameters, bound)
            for parameter in parameters:
                assert parameter.grad is not None
                parameter.grad *= factor
            if first == "multiplied":
                clip_grad_norm_(parameters, bound)
            optimizer.step()
    causes = [found.cause for found in replay(tmp_path).findings if found.tensor != "all tensors"]
    measured = [(float(value), float(error)) for cause in causes for value, error in SAID.findall(cause)]
    assert any(abs(value - factor) <= error < 1e-5 for value, error in measured), causes
    assert not any("acts as" in cause for cause in causes), causes
