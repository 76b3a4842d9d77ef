"""A weight decay that the record denies, such as that of norms and biases in most scripts, is named and measured."""

from pathlib import Path
from typing import Any

import pytest
from torch.optim import SGD, Adam, AdamW, Optimizer

from crosscheck import Recorder, Verdict, replay
from tests.crosscheck.recording import make_parameters, take_steps


def decaying(kind: Any, decay: float, **how: Any) -> Any:
    """Return an optimizer that decays by `decay` whenever it steps, and whose groups say 0."""

    class Decaying(kind):
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                group["weight_decay"] = decay
            super().step(closure)
            for group in self.param_groups:
                group["weight_decay"] = 0.0

    def make(parameters: Any) -> Any:
        return Decaying(parameters, weight_decay=0.0, **how)

    return make


@pytest.mark.parametrize(
    ("make", "rule", "said"),
    [
        pytest.param(decaying(SGD, 0.01, lr=0.1), "sgd", "weight_decay acts as 0.01 where", id="SGD"),
        pytest.param(decaying(SGD, 0.3, lr=0.1, momentum=0.9), "sgd", "weight_decay acts as 0.3 where", id="momentum"),
        pytest.param(decaying(AdamW, 0.01, lr=1e-2), "adamw", "decoupled weight_decay acts as 0.01 where", id="AdamW"),
        pytest.param(decaying(Adam, 0.05, lr=1e-2), "adam", "coupled weight_decay acts as 0.05 where", id="Adam"),
    ],
)
def test_it_is_named_with_its_size(tmp_path: Path, make: Any, rule: str, said: str) -> None:
    parameters = make_parameters((20, 30), (50,))
    optimizer: Optimizer = make(parameters)
    with Recorder(optimizer, tmp_path, rule=rule):
        take_steps(optimizer, parameters, range(1, 7))
    report = replay(tmp_path)
    assert report.verdict is Verdict.MISMATCH
    causes = {finding.cause.partition(": ")[2] for finding in report.findings}
    assert len(causes) == 1, causes
    (cause,) = causes
    named, measured = cause.split(" where the record says 0 (consistent with ")
    size, error = map(float, measured.rstrip(")").split(" ± "))
    true = float(said.split()[-2])
    assert cause.startswith(said.split(" acts")[0])
    assert float(named.split()[-1]) == pytest.approx(true, rel=1e-2)
    assert abs(size - true) <= 1.5 * error


def test_without_one_it_is_not_made_up(tmp_path: Path) -> None:
    class Clamps(AdamW):
        """AdamW that also clamps its parameters, which no decay does."""

        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            for parameter in self.param_groups[0]["params"]:
                parameter.data.clamp_(-0.5, 0.5)

    parameters = make_parameters((20, 30), (50,))
    optimizer = Clamps(parameters, lr=1e-2, weight_decay=0.0)
    with Recorder(optimizer, tmp_path, rule="adamw"):
        take_steps(optimizer, parameters, range(1, 7))
    report = replay(tmp_path)
    assert report.verdict is Verdict.MISMATCH
    assert all("weight_decay acts" not in finding.cause for finding in report.findings)
