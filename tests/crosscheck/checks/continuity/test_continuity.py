"""Faults that no single step can show are planted between or beside the steps of a real recorded run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import ExponentialLR

from crosscheck import Claims, Finding, Recorder, Report, Verdict, replay
from tests.crosscheck.recording import applied, feed, make_parameters, nothing_more, overflowing_steps, take_steps

Tamper = Callable[[Optimizer, Sequence[Parameter]], None]

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9),
    "adam": lambda parameters: Adam(parameters, lr=0.01),
    "fused adam": lambda parameters: Adam(parameters, lr=0.01, fused=True),
}


def tampered(
    make: Callable[[Any], Optimizer],
    tamper: Tamper,
    trace: Path,
    *,
    after: int = 3,
    steps: int = 6,
    moving: int = 2,
) -> Report:
    """Record a run with two parameters, tamper with it after the step `after`, and return the report.

    Only the first `moving` parameters have gradients.
    """
    parameters = make_parameters((8,), (2, 3))
    optimizer = make([("first", parameters[0]), ("second", parameters[1])])
    with Recorder(optimizer, trace):
        take_steps(optimizer, parameters[:moving], range(1, after + 1))
        with torch.no_grad():
            tamper(optimizer, parameters)
        take_steps(optimizer, parameters[:moving], range(after + 1, steps + 1))
    return replay(trace)


def only_finding(report: Report) -> Finding:
    assert report.verdict is Verdict.MISMATCH
    assert len(report.findings) == 1, report
    return report.findings[0]


def flip_lowest_bit(optimizer: Optimizer, parameters: Sequence[Parameter], slot: str) -> None:
    slots = optimizer.state[parameters[1]]
    tensor = parameters[1].detach() if slot == "param" else slots[slot]
    tensor.view(torch.int32)[1, 2] ^= 1


@pytest.mark.parametrize("after", [3, 128])  # within a part, and between two parts
@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("sgd", "momentum_buffer"),
        ("sgd", "param"),
        ("adam", "exp_avg"),
        ("adam", "exp_avg_sq"),
        ("fused adam", "exp_avg"),
        ("fused adam", "param"),
    ],
)
def test_one_bit_changed_between_steps(name: str, slot: str, after: int, tmp_path: Path) -> None:
    def tamper(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
        flip_lowest_bit(optimizer, parameters, slot)

    finding = only_finding(tampered(OPTIMIZERS[name], tamper, tmp_path, after=after, steps=after + 3))
    assert (finding.step, finding.tensor, finding.slot, finding.index) == (after + 1, "second", slot, (1, 2))
    assert finding.recorded != finding.expected
    assert finding.elements == 1
    assert finding.check == "continuity"
    assert finding.cause.startswith(f"{slot} was changed between steps {after} and {after + 1}")


@pytest.mark.parametrize("steps", ["all", (3, 4), (4, 5)])
@pytest.mark.parametrize("slot", ["param", "exp_avg"])
def test_an_element_that_only_full_steps_hold(slot: str, steps: Any, tmp_path: Path) -> None:
    """Of the 1,000 elements one is sampled at every step. Those of a full step are held against the next full step."""
    (weight,) = make_parameters((1000,))
    optimizer = Adam([("weight", weight)], lr=0.01)
    with Recorder(optimizer, tmp_path, steps=steps, coordinates=1):
        take_steps(optimizer, [weight], range(1, 4))
        values = weight.detach() if slot == "param" else optimizer.state[weight][slot]
        values[[7, 8, 9]] += 1
        take_steps(optimizer, [weight], range(4, 7))
    report = replay(tmp_path)
    found = [finding for finding in report.findings if finding.index is not None]
    if steps == (4, 5):  # nothing was recorded of what these elements were after step 3
        assert not found
        return
    (finding,) = found
    assert (finding.step, finding.slot, finding.index, finding.elements) == (4, slot, (7,), 3)
    assert (finding.check, report.checks["optimizer"]) == ("continuity", "match")


def test_full_steps_of_two_parts_and_two_starts_are_joined(tmp_path: Path) -> None:
    (weight,) = make_parameters((1000,))
    optimizer = SGD([("weight", weight)], lr=0.1)
    for first_step in (1, 4):
        with Recorder(optimizer, tmp_path, steps="all", coordinates=1, append=True, first_step=first_step) as recorder:
            take_steps(optimizer, [weight], (first_step, first_step + 1))
            recorder.flush()
            weight.data[7] += 1
            take_steps(optimizer, [weight], (first_step + 2,))
            weight.data[8] += 1
    report = replay(tmp_path)
    assert [(f.step, f.index, f.steps) for f in report.findings if f.index is not None] == [(3, (7,), 3)], str(report)


def allowed(claim: tuple[str, ...], tamper: Tamper, trace: Path) -> Report:
    """Record a run that tampers after every step, and claims it."""
    parameters = make_parameters((8,), (20, 30))
    optimizer = Adam([("first", parameters[0]), ("second", parameters[1])], lr=0.01)
    with Recorder(optimizer, trace, coordinates=9, claims=Claims(between=claim)):
        for step in range(1, 7):
            take_steps(optimizer, parameters, [step])
            with torch.no_grad():
                tamper(optimizer, parameters)
    return replay(trace)


def clamp_weights(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    del optimizer
    for parameter in parameters:
        parameter.clamp_(-0.01, 0.01)


def halve_moments(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    for parameter in parameters:
        optimizer.state[parameter]["exp_avg"] *= 0.5


@pytest.mark.parametrize(
    ("tamper", "claim"), [(clamp_weights, "param"), (halve_moments, "exp_avg")], ids=["param", "exp_avg"]
)
def test_a_claim_allows_what_is_done_between_steps(tamper: Tamper, claim: str, tmp_path: Path) -> None:
    report = allowed((claim,), tamper, tmp_path / "claimed")
    assert report.verdict is Verdict.MATCH, str(report)
    assert (
        f"{claim} was changed before steps 2 to 6 (5), outside the optimizer's step, as the trainer claims"
        in report.notes
    )
    for other in ((), ("exp_avg_sq",)):
        report = allowed(other, tamper, tmp_path / f"not-{len(other)}")
        assert {(finding.slot, finding.check) for finding in report.findings} == {(claim, "continuity")}, str(report)
        assert report.checks["optimizer"] == "match"


def test_a_claim_that_was_not_needed_is_told(tmp_path: Path) -> None:
    report = allowed(("param",), nothing, tmp_path)
    assert report.verdict is Verdict.MATCH
    assert "param never changed between steps, though the trainer claims that it may" in report.notes


def set_count(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    optimizer.state[parameters[0]]["step"] += 1


def drop_slot(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    del optimizer.state[parameters[0]]["momentum_buffer"]


def drop_state(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    del optimizer.state[parameters[0]]


def add_buffer(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    optimizer.state[parameters[1]]["momentum_buffer"] = torch.ones_like(parameters[1])


def add_moments(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    """Add a state that only its first moment tells from the one that torch would make."""
    moments = {name: torch.zeros_like(parameters[1]) for name in ("exp_avg", "exp_avg_sq")}
    optimizer.state[parameters[1]] = {"step": torch.tensor(0.0), **moments}
    moments["exp_avg"][1, 2] = 1.0


def move_idle(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    del optimizer
    parameters[1].add_(1.0)


@pytest.mark.parametrize(
    ("name", "tamper", "moving", "tensor", "slots", "cause"),
    [
        ("adam", set_count, 2, "first", {"step"}, "step was changed between steps 3 and 4"),
        ("sgd", drop_slot, 2, "first", {"momentum_buffer"}, "momentum_buffer was dropped between steps 3 and 4"),
        ("adam", drop_state, 2, "first", {"exp_avg", "exp_avg_sq", "step"}, "was dropped between steps 3 and 4"),
        ("sgd", add_buffer, 1, "second", {"momentum_buffer"}, "momentum_buffer appeared between steps 3 and 4"),
        ("adam", add_moments, 1, "second", {"exp_avg"}, "exp_avg appeared between steps 3 and 4"),
        ("sgd", move_idle, 1, "second", {"param"}, "param was changed between steps 3 and 4"),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_state_that_comes_goes_or_moves(
    name: str, tamper: Tamper, moving: int, tensor: str, slots: set[str], cause: str, tmp_path: Path
) -> None:
    report = tampered(OPTIMIZERS[name], tamper, tmp_path, moving=moving)
    assert report.verdict is Verdict.MISMATCH
    assert {finding.slot for finding in report.findings} == slots
    for finding in report.findings:
        assert (finding.step, finding.tensor) == (4, tensor)
        assert cause in finding.cause


def load_optimizer(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    del parameters
    state = optimizer.state_dict()
    for slots in state["state"].values():
        for name, value in slots.items():
            slots[name] = value + 1 if name == "step" else value * 0.5
    optimizer.load_state_dict(state)


def load_the_same(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    del parameters
    optimizer.load_state_dict(optimizer.state_dict())


def load_model_too(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    load_the_same(optimizer, parameters)
    for parameter in parameters:
        parameter.mul_(0.5)


def load_nothing(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    del parameters
    optimizer.load_state_dict(optimizer.state_dict() | {"state": {}})


def nothing(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    del optimizer, parameters


def clear_gradients(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    del parameters
    optimizer.zero_grad()


@pytest.mark.parametrize("tamper", [load_optimizer, load_nothing, load_the_same, nothing, clear_gradients])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_legal_between_steps(name: str, tamper: Tamper, tmp_path: Path) -> None:
    report = tampered(OPTIMIZERS[name], tamper, tmp_path)
    assert report.verdict is Verdict.MATCH, report
    assert report.checks["continuity"] == "match"


@pytest.mark.parametrize(
    ("tamper", "told"),
    [
        (load_optimizer, "it is not what the step before had left (exp_avg, exp_avg_sq, step)"),
        (load_nothing, "it is not what the step before had left (exp_avg, exp_avg_sq, step)"),
        (load_the_same, "it is, bit for bit, what the step before had left"),
    ],
)
def test_a_loaded_state_is_told(tamper: Tamper, told: str, tmp_path: Path) -> None:
    report = tampered(OPTIMIZERS["adam"], tamper, tmp_path)
    assert f"state was loaded before step 4: {told}" in report.notes


def test_a_loaded_state_does_not_excuse_parameters(tmp_path: Path) -> None:
    finding = only_finding(tampered(OPTIMIZERS["adam"], load_model_too, tmp_path))
    assert (finding.step, finding.slot, finding.check) == (4, "param", "continuity")


def test_loading_once_excuses_one_step_only(tmp_path: Path) -> None:
    def tamper(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
        optimizer.load_state_dict(optimizer.state_dict())
        take_steps(optimizer, parameters, (50,))
        flip_lowest_bit(optimizer, parameters, "param")

    finding = only_finding(tampered(OPTIMIZERS["sgd"], tamper, tmp_path))
    assert (finding.step, finding.slot) == (5, "param")


class ByHand(SGD):
    """SGD with momentum that is told of overflows as fused optimizers are.

    `careless` runs wherever nothing must change: at a skipped step, and for a parameter without a gradient.
    """

    _step_supports_amp_scaling = True
    careless: Tamper = staticmethod(nothing)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        del closure
        parameters: list[Parameter] = self.param_groups[0]["params"]
        if float(getattr(self, "found_inf", 0.0)):
            self.careless(self, parameters)
            return
        scale = getattr(self, "grad_scale", None)
        for parameter in parameters:
            if parameter.grad is None:
                self.careless(self, [parameter])
                continue
            if scale is not None:
                parameter.grad /= scale
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            buffer = state["momentum_buffer"].mul_(0.9).add_(parameter.grad)
            parameter.sub_(0.1 * buffer)


def decay_parameter(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    del optimizer
    parameters[0].mul_(0.99)


def decay_buffer(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
    optimizer.state[parameters[0]]["momentum_buffer"] *= 0.9


def run_by_hand(careless: Tamper, trace: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    """Record eight steps, of which the fifth overflows, and return the report."""
    monkeypatch.setattr(ByHand, "careless", staticmethod(careless))
    (weight,) = make_parameters((8,))
    optimizer = ByHand([("weight", weight)], lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Recorder(optimizer, trace) as recorder:
        overflowing_steps(optimizer, weight, recorder, scaler, steps=8, skip=[5])
    assert applied(trace) == [step != 5 for step in range(1, 9)]
    return replay(trace)


@pytest.mark.parametrize(("careless", "slot"), [(decay_parameter, "param"), (decay_buffer, "momentum_buffer")])
def test_moved_on_a_skipped_step(careless: Tamper, slot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finding = only_finding(run_by_hand(careless, tmp_path, monkeypatch))
    assert (finding.step, finding.tensor, finding.slot) == (5, "weight", slot)
    assert finding.elements == 8
    assert finding.cause == f"{slot} changed on a skipped step"


def test_faults_of_two_causes_are_two_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are reported at once, so that nobody finds the second only after repairing the first."""
    monkeypatch.setattr(ByHand, "careless", staticmethod(decay_parameter))

    def tamper(optimizer: Optimizer, parameters: Sequence[Parameter]) -> None:
        del optimizer
        parameters[0].add_(1.0)

    report = tampered(lambda parameters: ByHand(parameters, lr=0.1, momentum=0.9), tamper, tmp_path, moving=1)
    causes = [finding.cause for finding in report.findings]
    assert len(causes) == 2, report
    assert causes[0] == "param changed although it had no gradient"
    assert "param was changed between steps 3 and 4" in causes[1]


def test_skipped_step_that_moves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = run_by_hand(nothing, tmp_path, monkeypatch)
    assert (report.verdict, report.skipped) == (Verdict.MATCH, 1), report


def test_moved_although_it_had_no_gradient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ByHand, "careless", staticmethod(decay_parameter))
    report = tampered(lambda parameters: ByHand(parameters, lr=0.1, momentum=0.9), nothing, tmp_path, moving=1)
    finding = only_finding(report)
    assert (finding.step, finding.last_step, finding.steps) == (1, 6, 6)
    assert (finding.tensor, finding.slot) == ("second", "param")
    assert finding.cause == "param changed although it had no gradient"


class Eager(SGD):
    """SGD that makes the buffers of all tensors at its first step, also of those without a gradient."""

    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
        super().step(closure)


def test_a_buffer_may_come_at_a_step_without_a_gradient(tmp_path: Path) -> None:
    parameters = make_parameters((8,), (2, 3))
    optimizer = Eager(parameters, lr=0.1, momentum=0.9)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, parameters[:1], (1, 2))
        take_steps(optimizer, parameters, (3, 4))
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH, str(report)


def overflow_first(
    optimizer: Optimizer,
    weight: Parameter,
    trace: Path,
    after: Callable[[int, bool], None] = nothing_more,
    steps: Any = "sampled",
    skipped: int = 1,
) -> Report:
    """Take six steps, of which the first `skipped` overflow, as is common at the default loss scale."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Recorder(optimizer, trace, scaler=scaler, steps=steps) as recorder:
        overflowing_steps(optimizer, weight, recorder, scaler, steps=6, skip=range(1, skipped + 1), after=after)
    assert applied(trace) == [step > skipped for step in range(1, 7)]
    return replay(trace)


@pytest.mark.parametrize(
    ("dampening", "steps", "skipped"), [(0.0, "sampled", 1), (0.5, "sampled", 2), (0.0, (), 1), (0.5, (), 2)], ids=str
)
@pytest.mark.parametrize("garbage", [0.25, torch.nan])
@pytest.mark.parametrize("drop", [False, True])
def test_buffer_that_a_skipped_first_step_allocated(
    drop: bool, garbage: float, dampening: float, steps: Any, skipped: int, tmp_path: Path
) -> None:
    """torch's fused SGD allocates the buffer, does not write it, and reads it at the first step that is applied.

    That shows whether the steps are recorded in full or not.
    """
    (weight,) = make_parameters((8,))
    optimizer = SGD([("weight", weight)], lr=0.1, momentum=0.9, dampening=dampening, fused=True)

    def as_memory_may_be(*_: object) -> None:
        if float(optimizer.found_inf):  # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType]
            optimizer.state[weight]["momentum_buffer"].fill_(garbage)

    optimizer.register_step_post_hook(as_memory_may_be)  # this hook runs before the recorder's

    def after(_: int, was_applied: bool) -> None:
        if drop and not was_applied:
            del optimizer.state[weight]["momentum_buffer"]

    report = overflow_first(optimizer, weight, tmp_path, after, steps, skipped)
    if drop:
        assert report.verdict is Verdict.MATCH, report
        return
    finding = only_finding(report)
    assert (finding.step, finding.tensor, finding.slot) == (skipped + 1, "weight", "momentum_buffer")
    assert "momentum_buffer was never written" in finding.cause
    assert "step 1, which was skipped" in finding.cause


def test_tensors_without_elements(tmp_path: Path) -> None:
    """A skipped step allocates their buffers as well, and they are dropped with the others: neither is wrong of them."""
    parameters = make_parameters((0, 3), (4,))
    optimizer = SGD(parameters, lr=0.1, momentum=0.9, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    with Recorder(optimizer, tmp_path):
        for step in range(1, 7):
            feed(parameters, step, size=float(scaler.scale(torch.ones(()))))
            if step == 1:
                parameters[1].grad = torch.full_like(parameters[1], torch.inf)
            if step == 5:
                optimizer.state.clear()
            scaler.step(optimizer)
            scaler.update()
    report = replay(tmp_path)
    assert {finding.tensors for finding in report.findings} == {("group0.1",)}, report
    assert [finding.cause.partition(":")[0] for finding in report.findings] == [
        "momentum_buffer was never written",
        "momentum_buffer was dropped between steps 4 and 5",
    ]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("drop", [False, True])
def test_adam_skipped_at_its_first_step(drop: bool, fused: bool, amsgrad: bool, tmp_path: Path) -> None:
    """Adam's state starts from zeros, so it is correct to keep what a skipped step allocated, and also to remove it."""
    (weight,) = make_parameters((8,))
    optimizer = Adam([("weight", weight)], lr=0.01, fused=fused, amsgrad=amsgrad)

    def after(_: int, was_applied: bool) -> None:
        if drop and not was_applied:
            optimizer.state.pop(weight, None)

    report = overflow_first(optimizer, weight, tmp_path, after)
    assert (report.verdict, report.skipped) == (Verdict.MATCH, 1), report


@pytest.mark.parametrize("skip", [3, 128])
@pytest.mark.parametrize("every_attempt", [False, True])
def test_schedule_on_skipped_steps(every_attempt: bool, skip: int, tmp_path: Path) -> None:
    (weight,) = make_parameters((8,))
    optimizer = SGD([weight], lr=0.1, momentum=0.9, fused=True)
    schedule = ExponentialLR(optimizer, gamma=0.999)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def after(_: int, was_applied: bool) -> None:
        if was_applied or every_attempt:
            schedule.step()

    with Recorder(optimizer, tmp_path, scaler=scaler) as recorder:
        overflowing_steps(optimizer, weight, recorder, scaler, steps=skip + 3, skip=[skip], after=after)
    report = replay(tmp_path)
    if not every_attempt:
        assert report.verdict is Verdict.MATCH, report
        return
    finding = only_finding(report)
    assert (finding.step, finding.tensor, finding.slot) == (skip + 1, "group 0", "lr")
    assert "the schedule advanced on a skipped step" in finding.cause
    assert f"step {skip} was skipped" in finding.cause


def test_a_slot_that_the_formula_of_a_step_leaves_alone_does_not_move(tmp_path: Path) -> None:
    """Without momentum torch's SGD leaves the buffer as it is, for a later step that has momentum again."""

    class Halves(SGD):
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            for parameter in self.param_groups[0]["params"] if self.param_groups[0]["momentum"] == 0 else ():
                self.state[parameter]["momentum_buffer"].mul_(0.5)

    for kind, verdict in ((SGD, Verdict.MATCH), (Halves, Verdict.MISMATCH)):
        parameters = make_parameters((8,), (2, 3))
        optimizer = kind(parameters, lr=0.1, momentum=0.9)
        with Recorder(optimizer, tmp_path / kind.__name__, rule="sgd"):
            for step in range(1, 10):
                optimizer.param_groups[0]["momentum"] = 0.9 if step % 3 else 0.0
                take_steps(optimizer, parameters, [step])
        report = replay(tmp_path / kind.__name__)
        assert report.verdict is verdict
    assert [finding.slot for finding in report.findings] == ["momentum_buffer"]
    assert "although the formula of this step leaves it alone" in report.findings[0].cause


def test_tensors_that_ask_for_no_gradient_are_stepped_all_the_same(tmp_path: Path) -> None:
    parameters = [parameter.detach() for parameter in make_parameters((8,), (2, 3))]
    optimizer = SGD(parameters, lr=0.1)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, parameters, range(1, 4))
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH
    assert report.notes == ("between steps all of the elements were held, bit for bit",)
