"""Every fault around the optimizer, between backward and the new average, is caught, located and named."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from crosscheck import Recorder, Report, TraceError, Verdict, replay
from crosscheck.recorder import Claims
from tests.crosscheck.recording import IMPLEMENTATIONS

WORLD = 4
NORM, VALUE = 0.01, 5e-4  # so small that the 1e-6 in torch's factor shows
Touch = Callable[[Sequence[Tensor], float], object]
"""A function that changes the gradients of the parameters, given the loss scale."""


def nothing(parameters: Sequence[Tensor], scale: float) -> None:
    del parameters, scale


def multiply(parameters: Iterable[Tensor], factor: float) -> None:
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad *= factor


def moving(decay: float) -> Callable[..., Any]:
    return cast(Any, get_ema_multi_avg_fn(decay))


class Trainer:
    """A correct training loop, with places for faults."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.clip: Touch = settings.get("clip", nothing)
        self.before_unscale: Touch = settings.get("before_unscale", nothing)
        self.claims = Claims(**settings.get("claims", {}))
        self.decay = self.claims.average if isinstance(self.claims.average, float) else None
        self.average_late = settings.get("average_late", False)
        self.average_skipped = settings.get("average_skipped", False)
        self.averaging: Callable[..., Any] = settings.get("averaging", moving)
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(30, 20), nn.Linear(20, 3)).to(settings.get("dtype", torch.float32))
        self.parameters = list(self.model.parameters())
        self.optimizer: torch.optim.Optimizer = settings.get("make", sgd)(list(self.model.named_parameters()))
        self.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=settings.get("scaled", True))
        self.average: AveragedModel | None = None
        if self.decay is not None:
            self.average = AveragedModel(self.model, multi_avg_fn=self.averaging(self.decay))

    def run(self, *, steps: int = 6, skip: Iterable[int] = ()) -> Report:
        pairs = () if self.average is None else zip(self.parameters, self.average.module.parameters(), strict=True)
        recorder = Recorder(
            self.optimizer,
            self.folder,
            coordinates=40,
            scaler=self.scaler,
            average=pairs,
            claims=self.claims,
            world_size=WORLD,
        )
        with recorder:
            for step in range(1, steps + 1):
                self.step(step, recorder, overflows=step in skip)
        return replay(self.folder)

    def step(self, step: int, recorder: Recorder, *, overflows: bool) -> None:
        self.optimizer.zero_grad()
        generator = torch.Generator().manual_seed(step)
        slopes = [torch.randn(p.shape, generator=generator).to(p.dtype) * 1e-3 for p in self.parameters]
        if overflows:
            slopes[0].view(-1)[0] = torch.inf
        loss = sum(((p * slope).sum() for p, slope in zip(self.parameters, slopes, strict=True)), torch.zeros(()))
        self.scaler.scale(loss).backward()
        recorder.after_backward()
        scale = self.scaler.get_scale()
        self.before_unscale(self.parameters, scale)
        if self.clip is not nothing:
            self.scaler.unscale_(self.optimizer)
            self.clip(self.parameters, scale)
        if self.average_late and self.average is not None:
            self.average.update_parameters(self.model)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if recorder.step < step:
            recorder.skipped(loss_scale=scale)
        moved = not overflows or self.average_skipped
        if moved and not self.average_late and self.average is not None:
            self.average.update_parameters(self.model)


def by_norm(parameters: Sequence[Tensor], scale: float) -> None:
    del scale
    clip_grad_norm_(parameters, NORM)


def by_value(parameters: Sequence[Tensor], scale: float) -> None:
    del scale
    clip_grad_value_(parameters, VALUE)


def only(report: Report, *checks: str) -> None:
    """Check that the report is a mismatch, and of these checks alone."""
    assert report.verdict is Verdict.MISMATCH, str(report)
    assert {finding.check for finding in report.findings} == set(checks), str(report)


Named = list[tuple[str, Tensor]]


def sgd(named: Named, **how: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(named, lr=0.1, momentum=0.9, weight_decay=0.01, **how)


def adam(named: Named, **how: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(named, lr=0.01, **how)


def adamw(named: Named, **how: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(named, lr=0.01, **how)


def not_reached(parameters: Sequence[Tensor], scale: float) -> None:
    del scale
    clip_grad_norm_(parameters, 1e3)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"sgd": sgd, "adam": adam, "adamw": adamw}
CLIPPING: dict[str, tuple[Touch, dict[str, float]]] = {
    "none": (nothing, {}),
    "norm": (by_norm, {"clip_norm": NORM}),
    "norm not reached": (not_reached, {"clip_norm": 1e3}),
    "value": (by_value, {"clip_value": VALUE}),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("clipping", CLIPPING)
def test_no_false_alarm(clipping: str, optimizer: str, implementation: str, tmp_path: Path) -> None:
    """No alarm comes with or without a loss scale, in any format, with or without skipped steps, the first one included."""
    clip, claims = CLIPPING[clipping]
    cells = itertools.product((torch.float32, torch.bfloat16, torch.float16), ((False, ()), (True, (1, 4))))
    for number, (dtype, (scaled, skip)) in enumerate(cells):
        if scaled and dtype is torch.float16:
            continue  # torch's scaler refuses to unscale this format
        if optimizer == "sgd" and implementation == "fused" and skip:
            skip = (4,)  # torch itself fails at a first step that overflows, see the tests of Update
        report = Trainer(
            tmp_path / str(number),
            clip=clip,
            dtype=dtype,
            scaled=scaled,
            claims={**claims, "average": 0.9},
            make=partial(OPTIMIZERS[optimizer], **IMPLEMENTATIONS[implementation]),
        ).run(skip=skip)
        # In float16 the divisor of an unfused Adam is zero here, and parameters really become infinite: nothing is proved.
        lost = dtype is torch.float16 and optimizer != "sgd" and implementation != "fused"
        verdict = Verdict.VACUOUS if lost else Verdict.MATCH
        assert report.verdict is verdict, f"{dtype}, scaled {scaled}: {report}"
        said = [line for line in report.warnings if dtype is not torch.float16 or "not finite" not in line]
        assert not said, said
        assert report.checks["clipping"] == report.checks["average"] == "match"
        assert report.skipped == len(skip)
        assert all(report.power.values()), (
            f"a check without hyperparameters has no smallest error to tell: {report.power}"
        )


def norm_of(parameters: Sequence[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))


def unscale_again(parameters: Sequence[Tensor], scale: float) -> None:
    multiply(parameters, 1 / scale)


def unscale_again_and_clip(parameters: Sequence[Tensor], scale: float) -> None:
    multiply(parameters, 1 / scale)
    clip_grad_norm_(parameters, 1e-5)


def divide_by_world(parameters: Sequence[Tensor], scale: float) -> None:
    del scale
    multiply(parameters, 1 / WORLD)


def multiply_by_world(parameters: Sequence[Tensor], scale: float) -> None:
    del scale
    multiply(parameters, WORLD)


def clip_without_eps(parameters: Sequence[Tensor], scale: float) -> None:
    del scale
    multiply(parameters, NORM / norm_of(parameters))


def clip_twice(parameters: Sequence[Tensor], scale: float) -> None:
    by_norm(parameters, scale)
    by_norm(parameters, scale)


def factor_twice(parameters: Sequence[Tensor], scale: float) -> None:
    del scale
    multiply(parameters, (NORM / (norm_of(parameters) + 1e-6)) ** 2)


def clip_elsewhere(parameters: Sequence[Tensor], scale: float) -> None:
    del scale
    clip_grad_norm_(parameters, NORM * 1.01)


def round_to_bfloat16(parameters: Sequence[Tensor], scale: float) -> None:
    del scale
    for parameter in parameters:
        assert parameter.grad is not None
        parameter.grad.copy_(parameter.grad.bfloat16())


BY_NORM, BY_VALUE = {"clip_norm": NORM}, {"clip_value": VALUE}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "unscaled twice": ({"clip": unscale_again}, "divided by the loss scale twice"),
    "unscaled twice, then clipped": (
        {"clip": unscale_again_and_clip, "claims": {"clip_norm": 1e-5}},
        "divided by the loss scale twice",
    ),
    "rounded": ({"clip": round_to_bfloat16}, "grad is rounded to bfloat16"),
    "divided by the world size twice": ({"clip": divide_by_world}, "divided by the world size twice"),
    "summed over ranks": ({"clip": multiply_by_world}, "multiplied by the world size"),
    "clip after the step": ({"claims": BY_NORM}, "not clipped (or only after the step)"),
    "clip on scaled gradients": (
        {"before_unscale": by_norm, "claims": BY_NORM},
        "clipped before it is divided by the loss scale",
    ),
    "value clip on scaled gradients": (
        {"before_unscale": by_value, "claims": BY_VALUE},
        "clipped before it is divided by the loss scale",
    ),
    "eps of the norm dropped": ({"clip": clip_without_eps, "claims": BY_NORM}, "torch adds to the norm is missing"),
    "clipped twice": ({"clip": clip_twice, "claims": BY_NORM}, "clipped twice"),
    "factor applied twice": ({"clip": factor_twice, "claims": BY_NORM}, "the clipping factor is applied twice"),
    "another threshold": ({"clip": clip_elsewhere, "claims": BY_NORM}, "clip_norm acts as 0.0101"),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("fault", FAULTS)
def test_gradient_fault(fault: str, implementation: str, tmp_path: Path) -> None:
    settings, cause = FAULTS[fault]
    report = Trainer(tmp_path, make=partial(sgd, **IMPLEMENTATIONS[implementation]), **settings).run(skip=(4,))
    hides_the_overflow = fault == "value clip on scaled gradients"  # clamped, it is finite when the scaler looks at it
    only(report, "clipping", *(("loss scale",) if hides_the_overflow else ()))
    assert report.checks["optimizer"] == "match"  # it handled the gradient that it was given correctly
    assert report.findings[0].step == 1
    assert any(cause in finding.cause for finding in report.findings), str(report)


def test_gradient_changed_where_no_coordinate_is_sampled(tmp_path: Path) -> None:
    """The norm over all elements shows it."""

    def touch(parameters: Sequence[Tensor], scale: float) -> None:
        del scale
        grad = parameters[0].grad
        assert grad is not None
        grad.view(-1)[hidden] *= 1.5

    trainer = Trainer(tmp_path, clip=touch)
    with Recorder(trainer.optimizer, tmp_path / "other", coordinates=40) as recorder:
        positions = recorder._sampler.reader(1).sample.columns[0].positions  # pyright: ignore[reportPrivateUsage]
        sampled = set(positions.numpy().tolist())
    hidden = next(position for position in range(600) if position not in sampled)
    report = trainer.run(steps=8)
    only(report, "clipping")
    assert any(finding.tensor == "all tensors" and finding.last_step == 8 for finding in report.findings)


def a_little_faster(decay: float) -> Callable[..., Any]:
    return moving(decay * 0.99)


def the_other_way_round(decay: float) -> Callable[..., Any]:
    return moving(1 - decay)


def never(decay: float) -> Callable[..., Any]:
    del decay

    def update(averaged: Any, current: Any, count: Any) -> None:
        del averaged, current, count

    return update


AVERAGES: dict[str, tuple[dict[str, Any], str, int]] = {
    "one step late": ({"average_late": True}, "one step late", 1),
    "another decay": ({"averaging": a_little_faster}, "decay acts as 0.891", 2),
    "swapped": ({"averaging": the_other_way_round}, "decay and 1 - decay are swapped", 2),
    "never": ({"averaging": never}, "it was not updated", 2),
    "on a skipped step": ({"average_skipped": True}, "average changed on a skipped step", 4),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("fault", AVERAGES)
def test_average_fault(fault: str, implementation: str, tmp_path: Path) -> None:
    settings, cause, first = AVERAGES[fault]
    make = partial(sgd, **IMPLEMENTATIONS[implementation])
    report = Trainer(tmp_path, claims={"average": 0.9}, make=make, **settings).run(skip=(4,))
    only(report, "average")
    assert report.findings[0].step == first, str(report)
    assert any(cause in finding.cause for finding in report.findings), str(report)


def test_options_of_groups_swapped(tmp_path: Path) -> None:
    def swapped(named: Sequence[tuple[str, Tensor]]) -> torch.optim.Optimizer:
        weights, biases = named[::2], named[1::2]
        return torch.optim.SGD(
            [{"params": biases, "weight_decay": 0.01}, {"params": weights, "weight_decay": 0.0}], lr=0.1
        )

    claimed = {
        f"{layer}.{kind}": {"weight_decay": wd} for layer in (0, 1) for kind, wd in (("weight", 0.01), ("bias", 0.0))
    }
    report = Trainer(tmp_path, make=swapped, claims={"options": claimed}).run()
    only(report, "options")
    assert {finding.tensor for finding in report.findings} >= {"0.bias"}
    assert "all its options are those claimed for 0.weight" in str(report)


def test_what_was_not_captured_is_not_recorded(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(5))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    with Recorder(optimizer, tmp_path / "trace", claims=Claims()):
        parameter.grad = torch.ones(5)
        optimizer.step()
    report = replay(tmp_path / "trace")
    assert report.verdict is Verdict.MATCH
    assert report.checks["clipping"] == report.checks["average"] == report.checks["loss scale"] == "not recorded"
    with pytest.raises(TraceError, match="clipping was not recorded"):
        replay(tmp_path / "trace", require=["clipping"])


def clipping_check(folder: Path, claims: Claims | None, grad: list[float], factor: float) -> str:
    """Record a step whose gradient is multiplied by a factor after backward, and return what its check came to."""
    parameter = torch.nn.Parameter(torch.ones(len(grad)))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    with Recorder(optimizer, folder, claims=claims) as recorder:
        parameter.grad = torch.tensor(grad)
        recorder.after_backward()
        parameter.grad *= factor
        optimizer.step()
    return replay(folder).checks["clipping"]


def test_without_claims_nothing_says_what_the_gradient_should_be(tmp_path: Path) -> None:
    assert clipping_check(tmp_path / "claimed", Claims(), [1.0, 2.0], 0.5) == "mismatch"
    assert clipping_check(tmp_path / "silent", None, [1.0, 2.0], 0.5) == "not tested"


def test_a_gradient_whose_norm_is_infinite_matches_if_nothing_changed_it(tmp_path: Path) -> None:
    assert clipping_check(tmp_path, Claims(), [1.0, torch.inf], 1.0) == "match"


SCHEDULES: dict[str, tuple[dict[str, Any], str]] = {
    "right": ({"name": "constant"}, "match"),
    "another": ({"name": "exponential", "size": 2, "gamma": 0.5}, "mismatch"),
}


@pytest.mark.parametrize("claimed", SCHEDULES)
def test_learning_rates_are_held_against_the_claimed_schedule(claimed: str, tmp_path: Path) -> None:
    schedule, result = SCHEDULES[claimed]
    lr = {f"{layer}.{kind}": {"lr": 0.1} for layer in (0, 1) for kind in ("weight", "bias")}
    report = Trainer(tmp_path, claims={"schedule": schedule, "options": lr}).run()
    assert report.checks["learning rate"] == result, str(report)
    if result == "mismatch":
        only(report, "learning rate")
        assert report.findings[0].step == 3


def test_a_loss_scale_that_does_not_back_off(tmp_path: Path) -> None:
    """The scaler is correct by its own rule, but the record claims another rule."""
    trainer = Trainer(tmp_path)
    stubborn = torch.amp.GradScaler("cpu", init_scale=2.0**10, backoff_factor=0.999)
    right, trainer.scaler = trainer.scaler, stubborn
    stated = right.state_dict()
    stubborn.state_dict = lambda: stated  # pyright: ignore[reportAttributeAccessIssue]
    report = trainer.run(skip=(3,))
    only(report, "loss scale")
    assert report.findings[0].step == 4


def test_a_learning_rate_that_is_a_tensor_of_float32(tmp_path: Path) -> None:
    """torch keeps the rate so under capturable. 0.1 is then rounded, which is no error."""

    def make(named: Named) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            [{"params": named, "initial_lr": torch.tensor(0.1)}], lr=torch.tensor(0.1), foreach=False
        )

    lr = {f"{layer}.{kind}": {"lr": 0.1} for layer in (0, 1) for kind in ("weight", "bias")}
    report = Trainer(tmp_path, make=make, claims={"schedule": {"name": "constant"}, "options": lr}).run()
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.checks["learning rate"] == report.checks["options"] == "match"


def test_gradients_captured_now_and_then(tmp_path: Path) -> None:
    class Forgetful(Recorder):
        def after_backward(self) -> None:
            if self.step % 2:
                super().after_backward()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tests.crosscheck.checks.test_surroundings.Recorder", Forgetful)
        report = Trainer(tmp_path).run(steps=6)
    assert report.checks["clipping"] == "match"
    assert "gradients at the end of backward are on record for 3 of 6 applied steps" in report.notes
