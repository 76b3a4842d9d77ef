"""Right arithmetic in another order, or near the ends of a format's range, is not called wrong."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from crosscheck import Claims, Recorder, Report, Verdict, replay
from tests.crosscheck.recording import IMPLEMENTATIONS, feed, make_parameters

HALVES = [torch.bfloat16, torch.float16]


def recorded(
    make: Callable[[Any], Optimizer],
    trace: Path,
    dtype: torch.dtype = torch.float32,
    *,
    sizes: Sequence[float] = (1.0,) * 6,
    parameters: float = 1.0,
    **more: Any,
) -> Report:
    """Record steps with gradients of these sizes, on parameters of such a size, and replay them."""
    tensors = make_parameters((20, 30), (50,), dtype=dtype)
    with torch.no_grad():
        for tensor in tensors:
            tensor.mul_(parameters)
    optimizer = make(tensors)
    with Recorder(optimizer, trace, steps="all", **more):
        for step, size in enumerate(sizes, 1):
            feed(tensors, step, size)
            optimizer.step()
    return replay(trace)


def of(kernels: str) -> Any:
    return IMPLEMENTATIONS[kernels]


class MultiplyAndAdd(Optimizer):
    """Adam as most write it: m.mul_(beta1).add_(g, alpha=1 - beta1), where torch has a lerp."""

    def __init__(self, parameters: Iterable[Tensor], betas: tuple[float, float]) -> None:
        super().__init__(parameters, {"lr": 1e-3, "betas": betas, "eps": 1e-8, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        del closure
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state |= {"step": 0, "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                state["step"] += 1
                state["exp_avg"].mul_(beta1).add_(p.grad, alpha=1 - beta1)
                state["exp_avg_sq"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
                root = (1 - beta2 ** state["step"]) ** 0.5
                divisor = (state["exp_avg_sq"].sqrt() / root).add_(group["eps"])
                p.addcdiv_(state["exp_avg"], divisor, value=-group["lr"] / (1 - beta1 ** state["step"]))


@pytest.mark.parametrize("beta1", [0.9, 0.99, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_adam_with_a_first_moment_that_is_stored_twice(tmp_path: Path, dtype: torch.dtype, beta1: float) -> None:
    sizes = [0.5**step for step in range(12)]
    report = recorded(lambda p: MultiplyAndAdd(p, (beta1, 0.999)), tmp_path / "trace", dtype, sizes=sizes, rule="adam")
    assert (report.verdict, report.findings) == (Verdict.MATCH, ())
    assert report.max_eta < 2


def _by_hand(decay: float) -> Callable[[Tensor, Tensor, Any], Tensor]:
    return lambda average, parameter, _: average * decay + parameter * (1 - decay)


AVERAGES = {"by hand": _by_hand, "of torch": get_ema_avg_fn}


@pytest.mark.parametrize("decay", [0.9, 0.999, 0.9999])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("kind", AVERAGES)
def test_a_moving_average_that_is_stored_twice(tmp_path: Path, dtype: torch.dtype, decay: float, kind: str) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Linear(30, 4)).to(dtype)
    average = AveragedModel(model, avg_fn=cast(Any, AVERAGES[kind](decay)))
    optimizer = SGD(model.parameters(), lr=0.1)
    given: dict[str, Any] = {"average": average, "model": model}
    if kind == "by hand":
        pairs = zip(model.parameters(), average.module.parameters(), strict=True)
        given = {"average": pairs, "claims": Claims(average=decay)}
    with Recorder(optimizer, tmp_path, **given):
        for step in range(1, 9):
            feed(model.parameters(), step)
            optimizer.step()
            average.update_parameters(model)
    report = replay(tmp_path)
    assert report.findings == ()
    assert report.checks["average"] == "match"
    assert report.eta["average"] < 2


@pytest.mark.parametrize("kernels", ["single", "foreach"])
@pytest.mark.parametrize("lr", [1e-5, 3e-6, 1e-6])
def test_a_rate_that_float16_holds_as_a_subnormal_number(tmp_path: Path, lr: float, kernels: str) -> None:
    """1e-6 is 1.0133e-6 there, and torch rounds the number that it multiplies a tensor by to the tensor's format."""
    report = recorded(
        lambda p: SGD(p, lr=lr, **of(kernels)),
        tmp_path / "trace",
        torch.float16,
        sizes=[10.0] * 3,
        parameters=0.0,
    )
    assert (report.verdict, report.findings) == (Verdict.MATCH, ())


def test_a_rate_that_is_off_by_more_shows(tmp_path: Path) -> None:
    def off(parameters: Any) -> Optimizer:
        class Off(SGD):
            def step(self, closure: Any = None) -> Any:
                self.param_groups[0]["lr"] *= 2
                super().step(closure)
                self.param_groups[0]["lr"] /= 2

        return Off(parameters, lr=1e-6, foreach=False)

    report = recorded(off, tmp_path / "trace", torch.float16, sizes=[10.0] * 3, parameters=0.0, rule="sgd")
    assert report.verdict is Verdict.MISMATCH


@pytest.mark.parametrize("kernels", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("size", "eps"),
    [
        pytest.param(1e21, 1e-8, id="the second moment overflows"),
        pytest.param(1e-19, 1e-20, id="the second moment is subnormal"),
    ],
)
def test_a_second_moment_beyond_float32(tmp_path: Path, kernels: str, size: float, eps: float) -> None:
    """A fused kernel computes in float32 what it stores in float32, so it overflows and underflows as the others do."""
    report = recorded(lambda p: Adam(p, lr=1e-3, eps=eps, **of(kernels)), tmp_path / "trace", sizes=[size] * 5)
    assert report.findings == ()
    assert report.verdict is Verdict.MATCH


DECAY = 0.1


def cancelling(
    make: Callable[[Any], Optimizer], trace: Path, dtype: torch.dtype, off: float = 0.0, **more: Any
) -> Report:
    """Record two steps in which weight decay cancels all of the gradient of one parameter but some of its last bits."""
    others, weight = make_parameters((50,), (300,), dtype=dtype)
    optimizer = make([others, weight])
    turn = 1 if optimizer.param_groups[0]["maximize"] else -1
    with Recorder(optimizer, trace, steps="all", **more):
        for step in (1, 2):
            feed([others], step)
            spread = torch.linspace(1 - 2 * off, 1 + 2 * off, len(weight))
            weight.grad = (turn * DECAY * spread * weight.detach().float()).to(dtype)
            optimizer.step()
    return replay(trace)


@pytest.mark.parametrize("flags", [{}, {"amsgrad": True}, {"maximize": True}], ids=str)
@pytest.mark.parametrize("kernels", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_gradient_that_weight_decay_cancels(
    dtype: torch.dtype, kernels: str, flags: dict[str, bool], tmp_path: Path
) -> None:
    """What is left of their sum is rounding alone, and Adam squares it, divides by its root and takes its sign."""
    report = cancelling(lambda p: Adam(p, weight_decay=DECAY, **flags, **of(kernels)), tmp_path / "trace", dtype)
    assert (report.verdict, report.findings) == (Verdict.MATCH, ())
    assert report.max_eta < 2


def test_a_gradient_that_weight_decay_nearly_cancels_is_still_tested(tmp_path: Path) -> None:
    """In bfloat16 a sum of a fifth of its terms is more than rounding leaves, and shows a second moment that is too large."""

    class TooLarge(Adam):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            self.state[self.param_groups[0]["params"][1]]["exp_avg_sq"] *= 1.5

    report = cancelling(
        lambda p: TooLarge(p, weight_decay=DECAY, foreach=False), tmp_path / "trace", torch.bfloat16, 0.25, rule="adam"
    )
    (finding, *_) = report.findings
    assert finding.slot == "exp_avg_sq"
    assert finding.elements > 50


@pytest.mark.filterwarnings("ignore:crosscheck. before step")
@pytest.mark.parametrize("flags", [{}, {"nesterov": True}], ids=str)
@pytest.mark.parametrize("kernels", ["single", "foreach"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_model_that_becomes_a_half_while_its_buffers_stay(
    dtype: torch.dtype, kernels: str, flags: dict[str, bool], tmp_path: Path
) -> None:
    """The buffer is float32, but the sum of gradient and weight decay that it takes in is rounded to the half before."""
    torch.manual_seed(0)
    model = torch.nn.Linear(20, 20)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, **flags, **of(kernels))
    with Recorder(optimizer, tmp_path, model=model, steps="all"):
        for step in range(1, 7):
            if step == 3:
                model.to(dtype)
            feed(model.parameters(), step, 1e-3 if step % 2 else 1e-6)
            optimizer.step()
    report = replay(tmp_path)
    assert optimizer.state[model.weight]["momentum_buffer"].dtype == torch.float32
    assert (report.verdict, report.findings) == (Verdict.MATCH, ())
    assert report.max_eta < 2


@pytest.mark.filterwarnings("ignore:crosscheck. before step")
def test_without_weight_decay_such_a_buffer_is_held_to_its_own_format(tmp_path: Path) -> None:
    class Off(SGD):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            for state in self.state.values():
                state["momentum_buffer"] *= 1 + 1e-4

    model = torch.nn.Linear(20, 20)
    optimizer = Off(model.parameters(), lr=0.1, momentum=0.9)
    with Recorder(optimizer, tmp_path, model=model, steps="all", rule="sgd"):
        for step in range(1, 5):
            if step == 2:
                model.to(torch.bfloat16)
            feed(model.parameters(), step)
            optimizer.step()
    assert any("weight (2)" in finding.tensors for finding in replay(tmp_path).findings)
