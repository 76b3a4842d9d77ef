"""Steps in which no parameter has a gradient are told, since an optimizer may step parameters that its model does not use."""

from pathlib import Path

import torch

from crosscheck import Recorder, Verdict, replay
from tests.crosscheck.recording import make_parameters, take_steps


def test_steps_without_any_gradient_are_told(tmp_path: Path) -> None:
    parameters = make_parameters((3,), (2, 2))
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, parameters, range(1, 5))
        parameters[1].grad = None
        optimizer.step()  # the other one has a gradient
        for _ in range(6):
            optimizer.zero_grad()
            optimizer.step()
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH
    (told,) = [note for note in report.notes if "had a gradient" in note]
    assert told.startswith("in 6 of 11 applied steps, the first of them step 6, no recorded parameter had a gradient")
