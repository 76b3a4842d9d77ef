"""The recorder records any optimizer, and a replay of the record finds nothing wrong."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

from crosscheck import Recorder, Report, UnsupportedOptimizer, Verdict, replay
from tests.crosscheck.recording import (
    ADAM_OPTIONS,
    IMPLEMENTATIONS,
    SGD_OPTIONS,
    feed,
    full_steps,
    make_parameters,
    parts_of,
    take_steps,
)

Make = Callable[..., Optimizer]

OPTIMIZERS: dict[str, tuple[Make, dict[str, Any]]] = {
    **{f"sgd-{name}": (SGD, options) for name, options in SGD_OPTIONS.items()},
    **{name: (Adam, options) for name, options in ADAM_OPTIONS.items()},
    "adamw": (AdamW, {"lr": 1e-2, "weight_decay": 0.1}),
}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
STATEFUL: dict[str, tuple[Make, dict[str, Any]]] = {
    "sgd": (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    "adamw": (AdamW, {"lr": 0.1, "weight_decay": 0.1}),
    "amsgrad": (Adam, {"lr": 0.1, "weight_decay": 0.1, "amsgrad": True}),
}


def matches(trace: Path, *, steps: int) -> Report:
    report = replay(trace)
    assert report.verdict is Verdict.MATCH, report
    assert report.max_eta <= 16, report
    assert report.steps == steps
    return report


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_implementation_and_dtype_replays(name: str, implementation: str, dtype: str, tmp_path: Path) -> None:
    make, options = OPTIMIZERS[name]
    parameters = make_parameters((64,), dtype=DTYPES[dtype])
    optimizer = make(parameters, **options, **IMPLEMENTATIONS[implementation])
    with Recorder(optimizer, tmp_path):
        for step in range(1, 7):
            # The sizes go from ordinary ones down to those whose squares float16 loses. Some are exactly zero, as after a ReLU.
            feed(parameters, step, size=10.0 ** -(step % 3))
            gradient = parameters[0].grad
            assert gradient is not None
            gradient[::7] = 0
            optimizer.step()
    report = matches(tmp_path, steps=6)
    assert report.profiles == (f"{implementation} on cpu",)
    if dtype != "float16":  # float16 rounds squares of ordinary gradients and eps=1e-8 to zero
        assert not report.out_of_range


@pytest.mark.parametrize("name", STATEFUL)
def test_differentiable_on_a_parameter_that_is_no_leaf(name: str, tmp_path: Path) -> None:
    make, options = STATEFUL[name]
    parameter = make_parameters((64,))[0].clone()
    assert not parameter.is_leaf
    optimizer = make([parameter], differentiable=True, **options)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, [parameter], range(1, 7))
    assert matches(tmp_path, steps=6).profiles == ("single on cpu, differentiable",)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", STATEFUL)
def test_late_and_missing_gradients(name: str, implementation: str, tmp_path: Path) -> None:
    make, options = STATEFUL[name]
    early, late, never = make_parameters((8,), (8,), (8,))
    at_first = never.detach().clone()
    optimizer = make([("early", early), ("late", late), ("never", never)], **options, **IMPLEMENTATIONS[implementation])
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, [early], (1, 2))
        if name == "sgd" and implementation == "fused":
            feed([early, late], 3)
            with pytest.raises(TypeError, match="expected Tensor"):  # torch's kernel does not accept a late tensor
                optimizer.step()
            return
        take_steps(optimizer, [early, late], range(3, 7))
    # If one count or one dampening were used for the whole optimizer, the late tensor would differ from its first step on.
    report = matches(tmp_path, steps=6)
    assert torch.equal(never, at_first)
    assert report.power["group 0"]["lr"].smallest < 1e-4
    described = {row.tensor: row for row in parts_of(tmp_path)[0].blocks[0].tensors}
    assert described[2].no_grad == (0, 1, 2, 3, 4, 5)
    assert described[1].no_grad == (0, 1)
    slot = "momentum_buffer" if name == "sgd" else "exp_avg"
    assert described[1].slots[slot].absent_before == (0, 1, 2)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", STATEFUL)
def test_group_added_in_the_middle(name: str, implementation: str, tmp_path: Path) -> None:
    make, options = STATEFUL[name]
    first, second = make_parameters((8,), (300,))
    optimizer = make([("first", first)], **options, **IMPLEMENTATIONS[implementation])
    with Recorder(optimizer, tmp_path, named_parameters=[("first", first), ("second", second)]):
        take_steps(optimizer, [first], (1, 2))
        optimizer.add_param_group({"params": [("second", second)], "lr": 0.3})
        if name == "sgd" and implementation == "fused":  # in a separate group all buffers may be new
            assert "momentum_buffer" not in optimizer.state[second]
        take_steps(optimizer, [first, second], range(3, 7))
    assert matches(tmp_path, steps=6).tensors == 2
    parts = parts_of(tmp_path)
    assert [[tensor.name for tensor in part.tensors] for part in parts] == [["first"], ["first", "second"]]
    assert parts[1].tensors[1].group == 1
    assert parts[1].steps[0].options[1]["lr"] == 0.3


def test_groups_with_options_of_their_own(tmp_path: Path) -> None:
    parameters = make_parameters((8,), (8,), (8,))
    groups: list[dict[str, Any]] = [
        {"params": [parameters[0]], "momentum": 0.0},
        {"params": [parameters[1]], "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {"params": [parameters[2]], "momentum": 0.9, "dampening": 0.5, "lr": 0.02, "weight_decay": 0.1},
    ]
    optimizer = SGD(groups, lr=0.1)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, parameters, range(1, 7))
    report = matches(tmp_path, steps=6)
    assert {group: set(power) for group, power in report.power.items()} == {
        "group 0": {"lr"},
        "group 1": {"lr", "momentum", "weight_decay"},
        "group 2": {"lr", "momentum", "dampening", "weight_decay"},
    }


def test_learning_rate_of_a_scheduler(tmp_path: Path) -> None:
    parameters = make_parameters((8,))
    optimizer = SGD(parameters, lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)
    rates: list[float] = []
    with Recorder(optimizer, tmp_path):
        for step in range(1, 7):
            rates.append(optimizer.param_groups[0]["lr"])
            take_steps(optimizer, parameters, [step])
            schedule.step()
    matches(tmp_path, steps=6)
    assert [step.options[0].get("lr") for part in parts_of(tmp_path) for step in part.steps] == rates


@pytest.mark.parametrize(
    ("make", "options"), [(SGD, {}), (SGD, {"foreach": True}), (Adam, {}), (Adam, {"fused": True})]
)
def test_learning_rate_in_a_tensor(make: Make, options: dict[str, Any], tmp_path: Path) -> None:
    parameters = make_parameters((64,))
    rate = torch.tensor(0.1)
    optimizer = make(parameters, lr=rate, **options)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, parameters, range(1, 4))
        rate.fill_(0.01)  # the tensor stays the same object, so it has to be read at each step
        take_steps(optimizer, parameters, range(4, 7))
    matches(tmp_path, steps=6)


@pytest.mark.parametrize("keyword", [False, True])
def test_closures(keyword: bool, tmp_path: Path) -> None:
    (parameter,) = make_parameters((8,))
    optimizer = SGD([parameter], lr=0.1, momentum=0.9)
    calls = itertools.count(1)

    def closure() -> float:
        feed([parameter], next(calls))
        return 7.0

    with Recorder(optimizer, tmp_path):
        for _ in range(5):
            parameter.grad = torch.full_like(parameter, 99.0)  # a stale gradient, since the closure has not run yet
            assert (optimizer.step(closure=closure) if keyword else optimizer.step(closure)) == 7.0
    matches(tmp_path, steps=5)
    assert next(calls) == 6  # once a step


SHAPES: dict[str, Callable[[], Tensor]] = {
    "0-dim": lambda: torch.tensor(0.5),
    "one element": lambda: torch.randn(1),
    "channels last": lambda: torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
    "transposed": lambda: torch.randn(20, 30).t(),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("make", [SGD, Adam])
@pytest.mark.parametrize("shape", SHAPES)
def test_unusual_tensors(shape: str, make: Make, implementation: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    # The empty tensor comes with another one, since alone it has nothing to check.
    parameters = [Parameter(SHAPES[shape]()), Parameter(torch.zeros(0, 3))]
    optimizer = make(parameters, lr=0.1, **IMPLEMENTATIONS[implementation])
    with Recorder(optimizer, tmp_path, coordinates=7):
        take_steps(optimizer, parameters, range(1, 6))
    slots = 1 if make is SGD else 3
    rows = 3 * parameters[0].numel() + 5 * min(7, parameters[0].numel())
    assert matches(tmp_path, steps=5).elements == slots * rows


def test_fused_kernel_on_gradients_in_another_layout(tmp_path: Path) -> None:
    """torch's fused CPU kernels go through memory in order, so where layouts differ, they pair the wrong elements."""
    results: list[Tensor] = []
    for options in IMPLEMENTATIONS["single"], IMPLEMENTATIONS["fused"]:
        parameter = Parameter(torch.ones(20, 30).t())
        optimizer = SGD([parameter], lr=0.1, **options)
        with Recorder(optimizer, tmp_path, append=True):
            parameter.grad = torch.arange(600.0).reshape(30, 20)
            optimizer.step()
        results.append(parameter.detach())
    report = replay(tmp_path)
    # So that a repaired torch passes too.
    assert (not report.findings) == torch.allclose(results[0], results[1]), report
    assert {finding.slot for finding in report.findings} <= {"param"}


def test_elements_are_found_where_they_are(tmp_path: Path) -> None:
    parameter = Parameter(torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last))
    optimizer = SGD([("weight", parameter)], lr=0.1, momentum=0.9)
    with Recorder(optimizer, tmp_path, coordinates=300):
        take_steps(optimizer, [parameter], (1, 2))
        optimizer.state[parameter]["momentum_buffer"][2, 1, 3, 4] += 1
        take_steps(optimizer, [parameter], (3, 4))
    (finding,) = replay(tmp_path).findings
    assert (finding.step, finding.tensor, finding.slot, finding.index) == (3, "weight", "momentum_buffer", (2, 1, 3, 4))


@pytest.mark.parametrize(
    ("own", "given", "names"),
    [
        (None, None, ["group0.0", "group0.1"]),
        (("a", "b"), None, ["a", "b"]),
        (None, ("x", "y"), ["x", "y"]),
        (("a", "b"), ("x", "y"), ["x", "y"]),
        (("a", "b"), ("x",), ["x", "b"]),
        (None, ("same", "same"), None),
    ],
)
def test_names(
    own: tuple[str, ...] | None, given: tuple[str, ...] | None, names: list[str] | None, tmp_path: Path
) -> None:
    parameters = make_parameters((8,), (8,))
    optimizer = SGD(list(zip(own, parameters, strict=True)) if own else parameters, lr=0.1)
    with Recorder(optimizer, tmp_path, named_parameters=zip(given, parameters, strict=False) if given else None):
        take_steps(optimizer, parameters, range(1, 4))
    assert matches(tmp_path, steps=3)
    found = [tensor.name for tensor in parts_of(tmp_path)[0].tensors]
    assert len(set(found)) == 2, "two tensors of one name cannot be told apart in a report"
    assert names is None or found == names


@pytest.mark.parametrize(
    ("make", "dtype", "message"),
    [
        (torch.optim.LBFGS, torch.float32, "no rule for LBFGS; there are sgd, adam, adamw"),
        (torch.optim.RMSprop, torch.float32, "no rule for RMSprop; there are sgd, adam, adamw"),
        (SGD, torch.complex64, "weight is complex"),
        (SGD, torch.float8_e5m2, "weight is torch.float8_e5m2"),
        (dict, torch.float32, "dict is not a torch.optim.Optimizer"),
    ],
    ids=str,
)
def test_refused_when_attaching(make: Callable[..., Any], dtype: torch.dtype, message: str, tmp_path: Path) -> None:
    optimizer = make([("weight", Parameter(torch.ones(3).to(dtype)))])
    with pytest.raises(UnsupportedOptimizer, match=message):
        Recorder(optimizer, tmp_path / "trace")
    assert not (tmp_path / "trace").exists()  # nothing was started


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate parameters")
def test_a_parameter_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    (weight,) = make_parameters((3,))
    with pytest.raises(UnsupportedOptimizer, match=r"group0.1 is twice in the optimizer"):
        Recorder(SGD([weight, weight], lr=0.1), tmp_path / "trace")


def test_parameters_on_the_same_memory_are_refused(tmp_path: Path) -> None:
    """As an embedding and a head are that are tied by their `.data`: each step moves them twice."""
    head, embedding = make_parameters((4, 3), (4, 3))
    head.data = embedding.data
    optimizer = SGD([("head", head), ("embedding", embedding)], lr=0.1)
    both = r"(head and embedding|embedding and head) share memory, so each call of step\(\) steps it twice"
    with pytest.raises(UnsupportedOptimizer, match=both):
        Recorder(optimizer, tmp_path / "trace")
    flat = torch.zeros(12)
    first, second = Parameter(flat[:7]), Parameter(flat[6:])
    with pytest.raises(UnsupportedOptimizer, match=r"group0\.0 and group0\.1 share memory"):
        Recorder(SGD([first, second], lr=0.1), tmp_path / "trace")
    assert not (tmp_path / "trace").exists()


def test_parameters_that_are_parts_of_one_tensor_are_recorded(tmp_path: Path) -> None:
    flat = torch.zeros(12, 2)
    parameters = [Parameter(flat[:6]), Parameter(flat[6:6]), Parameter(flat[6:]), Parameter(torch.zeros(0))]
    frozen = Parameter(flat[:6], requires_grad=False)
    interleaved = torch.zeros(5, 2)
    columns = [Parameter(interleaved[:, 0]), Parameter(interleaved[:, 1])]
    Recorder(SGD([*parameters, frozen, *columns], lr=0.1), tmp_path / "trace").close()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rule": "rmsprop"}, UnsupportedOptimizer, "'rmsprop': there is no such rule; there are sgd, adam, adamw"),
        ({"steps": "some"}, ValueError, "'sampled', 'all' and step numbers"),
        ({"coordinates": 0}, ValueError, "at least 1"),
    ],
)
def test_refused_options(options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        Recorder(SGD(make_parameters((3,))), tmp_path / "trace", **options)
    assert not (tmp_path / "trace").exists()


class Homemade(Optimizer):
    """An optimizer with Adam's formula and its own names of state."""

    def __init__(self, parameters: Any, *, name_of_count: str = "k") -> None:
        self.count = name_of_count
        super().__init__(parameters, {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        del closure
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            if not state:
                state |= {self.count: 0, "m": torch.zeros_like(parameter), "v": torch.zeros_like(parameter)}
            state[self.count] += 1
            count, m, v = state[self.count], state["m"], state["v"]
            m.lerp_(parameter.grad, 0.1)
            v.mul_(0.999).addcmul_(parameter.grad, parameter.grad, value=0.001)
            denominator = (v / (1 - 0.999**count)).sqrt() + 1e-8
            parameter.addcdiv_(m, denominator, value=-0.01 / (1 - 0.9**count))


def test_a_class_of_ones_own(tmp_path: Path) -> None:
    parameters = make_parameters((64,))
    optimizer = Homemade(parameters)
    with pytest.raises(UnsupportedOptimizer, match=r"no rule for Homemade.*say which with rule="):
        Recorder(optimizer, tmp_path)
    with Recorder(optimizer, tmp_path, rule="adam", slots={"exp_avg": "m", "exp_avg_sq": "v", "step": "k"}):
        take_steps(optimizer, parameters, range(1, 7))
    report = matches(tmp_path, steps=6)
    assert report.optimizer.endswith("Homemade")
    assert set(report.power["group 0"]) == {"lr", "beta1", "beta2", "eps"}


class DecayAfterwards(SGD):
    """An SGD whose step calls torch's step and then decays the parameters."""

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().step(closure)
        with torch.no_grad():
            for parameter in self.param_groups[0]["params"]:
                parameter.mul_(0.9)


@pytest.mark.parametrize("sgd_seen_before", [False, True])
def test_what_a_subclass_does_after_super_is_part_of_its_step(
    sgd_seen_before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = make_parameters((8,))
    # torch wraps the step of a class with hooks when its first instance is made. The step of the base class then calls the
    # hooks too, within the step of the subclass.
    step: Any = vars(SGD)["step"]
    monkeypatch.setattr(SGD, "step", getattr(step, "__wrapped__", step))
    if sgd_seen_before:
        SGD(make_parameters((1,)))
    optimizer = DecayAfterwards(parameters, lr=0.1)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, parameters, range(1, 4))
    (finding,) = replay(tmp_path).findings
    assert (finding.step, finding.slot, finding.steps) == (1, "param", 3)
    assert "outside the optimizer's step" not in finding.cause
    assert full_steps(tmp_path) == [1, 2, 3]


@pytest.mark.parametrize("implementation", ["single", "fused"])
@pytest.mark.parametrize("make", [SGD, Adam])
def test_a_thousand_steps_of_a_real_network(make: Make, implementation: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    inputs, targets = torch.randn(64, 6), torch.randn(64, 3)
    options: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4} if make is SGD else {"lr": 0.01}
    optimizer = make(model.named_parameters(), **options, **IMPLEMENTATIONS[implementation])
    losses: list[float] = []
    with Recorder(optimizer, tmp_path):
        for step in range(1000):
            some = torch.arange(8) + 8 * (step % 8)
            optimizer.zero_grad()
            loss = (model(inputs[some]) - targets[some]).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])  # it learned something
    report = matches(tmp_path, steps=1000)
    assert not set(report.not_tested) - {"eps"}


@pytest.mark.parametrize("budget", ["default", "full"])
def test_another_default_device(budget: Any, tmp_path: Path) -> None:
    """What the recorder makes for itself is in the host's memory, wherever the user's new tensors go."""
    parameters = make_parameters((300, 300), (32, 8, 16, 16), (7,))
    parameters[1].data = parameters[1].data.to(memory_format=torch.channels_last)
    parameters.append(Parameter(torch.randn(200, 200, dtype=torch.float64)))
    optimizer = AdamW(parameters, lr=0.01, fused=True)

    def count(*_: Any) -> None:
        for parameter in parameters:
            optimizer.state[parameter]["calls"] = 1

    optimizer.register_step_post_hook(count)
    with torch.device("meta"), Recorder(optimizer, tmp_path, budget=budget, clip_norm=1e9) as recorder:
        recorder.estimate()
        recorder.after_backward()  # there is no gradient yet
        recorder.skipped(loss_scale=2.0)
        for step in range(1, 5):
            with torch.device("cpu"):
                feed(parameters, step)
            recorder.after_backward()
            optimizer.step()
    report = replay(tmp_path)
    assert (report.verdict, report.steps, report.skipped) == (Verdict.MATCH, 5, 1), str(report)
