"""Two mistakes at once: a number is fitted beside a mistake only if that changes something, and leaves the number alone."""

from pathlib import Path

import numpy as np
import torch

from crosscheck import Claims, Recorder, replay
from crosscheck.diagnosis.pairs import pairs
from crosscheck.diagnosis.trial import Candidate
from crosscheck.float64 import float64
from tests.crosscheck.recording import feed, make_parameters


def test_no_number_is_fitted_that_the_first_mistake_has_set(tmp_path: Path, samples: list[Candidate]) -> None:
    """Gradients are halved far below the bound, and the average is updated four times a step."""
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
