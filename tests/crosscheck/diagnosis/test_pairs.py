"""Two mistakes at once: a number is fitted beside a mistake only if that changes something, and leaves the number alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crosscheck import Claims, Recorder, replay
from crosscheck.checks import judge
from crosscheck.diagnosis.cause import Cause
from crosscheck.diagnosis.pairs import pairs
from crosscheck.diagnosis.trial import Candidate
from crosscheck.float64 import float64
from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Flags, Rule
from tests.crosscheck.recording import feed, make_parameters


def test_no_number_is_fitted_that_the_first_mistake_has_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are halved far below the bound, and the average is updated four times a step."""
    samples: list[Candidate] = []

    def keep(rule: Rule[Any], flags: Flags, inputs: Inputs) -> list[Cause]:
        samples.append(Candidate("", rule, flags, inputs))
        return [Cause("kept", "kept", 0, 0.0)]

    monkeypatch.setattr(judge, "diagnose", keep)
    (weight,) = make_parameters((5, 6))
    average = weight.detach().clone()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    claims = Claims(average=0.9, averaged=1, clip_norm=1e3)
    with Recorder(optimizer, tmp_path, average=[(weight, average)], claims=claims) as recorder:
        for step in range(1, 5):
            feed([weight], step)
            recorder.after_backward()
            assert weight.grad is not None
            weight.grad *= 0.5
            optimizer.step()
            for _ in range(4):
                average.lerp_(weight.detach(), 0.1)
    replay(tmp_path)
    with float64(), np.errstate(all="ignore"):
        said = {sample.rule.name: [pair.sentence for pair in pairs(sample)] for sample in samples}
    assert set(said) == {"clipping", "average"}
    assert not [sentence for each in said.values() for sentence in each if "acts as" in sentence]
