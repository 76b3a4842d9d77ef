"""Which formula is claimed, which optimizers are refused for the bits of their state, and what `slots` may say."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Adam, AdamW

from crosscheck import Recorder, UnsupportedOptimizer, Verdict, replay
from tests.crosscheck.recording import make_parameters, take_steps


class AdamW8bit(AdamW):
    """An optimizer whose name tells its bits, as torchao's do."""


class Optimizer8bit(torch.optim.Optimizer):
    """What bitsandbytes derives all of its optimizers from, whatever their bits."""


class TwoStates(Optimizer8bit):
    """Adam as bitsandbytes builds it: `args` tells the bits, and the state has names of its own."""

    def __init__(self, params: list[Any], optim_bits: int = 32) -> None:
        self.args = SimpleNamespace(optim_bits=optim_bits)
        super().__init__(params, {"lr": 0.01, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        del closure
        for p in self.param_groups[0]["params"]:
            state: dict[str, Any] = self.state[p]
            if not state:
                state |= {"step": 0, "state1": torch.zeros_like(p), "state2": torch.zeros_like(p)}
            state["step"] += 1
            m: Tensor = state["state1"].lerp_(p.grad, 0.1)
            v: Tensor = state["state2"].mul_(0.99).addcmul_(p.grad, p.grad, value=0.01)
            root = (v / (1 - 0.99 ** state["step"])).sqrt_().add_(1e-8)
            p.addcdiv_(m, root, value=-0.01 / (1 - 0.9 ** state["step"]))


SLOTS = {"exp_avg": "state1", "exp_avg_sq": "state2"}


@pytest.mark.parametrize(("kind", "options"), [(AdamW8bit, {}), (TwoStates, {"optim_bits": 8})])
def test_state_in_few_bits_is_refused_when_attached(
    kind: type[torch.optim.Optimizer], options: dict[str, Any], tmp_path: Path
) -> None:
    optimizer = kind(make_parameters((3,)), **options)
    with pytest.raises(UnsupportedOptimizer, match=f"{kind.__name__} keeps its state in fewer bits"):
        Recorder(optimizer, tmp_path, rule="adamw")


def test_state_in_32_bits_is_recorded_whatever_the_base_class_is_called(tmp_path: Path) -> None:
    parameters = make_parameters((20, 3))
    optimizer = TwoStates(parameters)
    with Recorder(optimizer, tmp_path, rule="adam", slots=SLOTS):
        take_steps(optimizer, parameters, range(1, 4))
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH, str(report)


@pytest.mark.parametrize(
    ("slots", "both"),
    [
        ({"exp_avg": "exp_avg_sq"}, "exp_avg and exp_avg_sq would both be 'exp_avg_sq'"),
        ({"exp_avg": "m", "exp_avg_sq": "m"}, "exp_avg and exp_avg_sq would both be 'm'"),
    ],
)
def test_one_name_for_two_slots_is_refused(slots: dict[str, str], both: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=both):
        Recorder(Adam(make_parameters((3,))), tmp_path, slots=slots)
    assert not list(tmp_path.iterdir())


def test_two_names_may_change_places(tmp_path: Path) -> None:
    swapped = {"exp_avg": "exp_avg_sq", "exp_avg_sq": "exp_avg"}
    Recorder(Adam(make_parameters((3,))), tmp_path, slots=swapped).close()
