"""The configured optimizer is torch's own: every parameter, every default, every kernel."""

import inspect
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from distrib.errors import BadInput
from distrib.optim.optimizer import (
    SGD,
    Adam,
    AdamGroup,
    AdamW,
    OptimizerConfig,
    SGDGroup,
    build_optimizer,
    implementation,
)

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
Kind = type[SGD] | type[Adam] | type[AdamW]

TWINS: dict[Kind, type[torch.optim.Optimizer]] = {
    SGD: torch.optim.SGD,
    Adam: torch.optim.Adam,
    AdamW: torch.optim.AdamW,
}

# A value other than torch's default for every parameter, with what else it needs to be accepted.
COMMON: dict[str, tuple[Any, dict[str, Any]]] = {
    "lr": (0.25, {}),
    "weight_decay": (0.125, {}),
    "maximize": (True, {}),
    "foreach": (True, {}),
    "fused": (False, {}),
}
ADAM: dict[str, tuple[Any, dict[str, Any]]] = COMMON | {
    "betas": ((0.5, 0.75), {}),
    "eps": (1e-3, {}),
    "amsgrad": (True, {}),
    "capturable": (True, {"fused": False}),
}
CHANGED: dict[Kind, dict[str, tuple[Any, dict[str, Any]]]] = {
    SGD: COMMON
    | {
        "momentum": (0.75, {}),
        "dampening": (0.5, {"momentum": 0.75}),
        "nesterov": (True, {"momentum": 0.75}),
    },
    Adam: ADAM | {"decoupled_weight_decay": (True, {"weight_decay": 0.125})},
    AdamW: ADAM,
}


def torch_defaults(kind: Kind) -> dict[str, Any]:
    parameters = inspect.signature(TWINS[kind]).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name != "params"}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def build(config: OptimizerConfig, device: torch.device = CPU) -> torch.optim.Optimizer:
    return build_optimizer(config, net().named_parameters(), device)


def make(kind: Kind, **options: Any) -> OptimizerConfig:
    return kind.model_validate(options)


@pytest.mark.parametrize("kind", list(TWINS))
def test_every_parameter_of_torch_is_a_key(kind: Kind) -> None:
    assert set(torch_defaults(kind)) == set(kind.model_fields) - {"name", "groups"}


@pytest.mark.parametrize("kind", list(TWINS))
def test_the_table_of_changed_values_is_complete(kind: Kind) -> None:
    """There is no changed value of differentiable = true, which is refused."""
    assert set(CHANGED[kind]) == set(torch_defaults(kind)) - {"differentiable"}


@pytest.mark.parametrize("kind", list(TWINS))
def test_defaults_are_torchs_own_but_for_fused(kind: Kind) -> None:
    found = build(make(kind)).defaults
    for name, default in torch_defaults(kind).items():
        assert found[name] == (True if name == "fused" else default), name


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, table in CHANGED.items() for name in table])
def test_changed_value_reaches_torch_and_nothing_else_moves(kind: Kind, name: str) -> None:
    value, needs = CHANGED[kind][name]
    optimizer = build(make(kind, **{name: value}, **needs), CUDA if name == "capturable" else CPU)
    expected = torch_defaults(kind) | {"fused": name not in ("foreach", "fused")} | needs | {name: value}
    assert type(optimizer) is TWINS[kind]
    for key, wanted in expected.items():
        assert optimizer.defaults[key] == wanted, key
        for group in optimizer.param_groups:
            assert group[key] == wanted, key


STEPS: dict[str, tuple[Kind, dict[str, Any]]] = {
    "sgd": (SGD, {"lr": 0.1}),
    "sgd maximize": (SGD, {"lr": 0.1, "maximize": True, "weight_decay": 0.1}),
    "sgd momentum": (SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.01}),
    "sgd nesterov": (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "adam": (Adam, {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-4, "weight_decay": 0.1}),
    "adam amsgrad": (Adam, {"lr": 0.01, "amsgrad": True, "maximize": True}),
    "adam decoupled": (Adam, {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "adamw": (AdamW, {"lr": 0.01}),
    "adamw amsgrad": (AdamW, {"lr": 0.01, "amsgrad": True, "weight_decay": 0.2, "betas": (0.5, 0.6)}),
}
KERNELS: dict[str, dict[str, bool]] = {"fused": {"fused": True}, "foreach": {"foreach": True}, "single": {}}


@pytest.mark.parametrize("steps", list(STEPS))
@pytest.mark.parametrize("kernels", list(KERNELS))
def test_steps_equal_those_of_plain_torch(steps: str, kernels: str) -> None:
    kind, options = STEPS[steps]
    ours, theirs = net(), net()
    wanted = KERNELS[kernels] or {"fused": False}
    optimizer = build_optimizer(make(kind, **options, **wanted), ours.named_parameters(), CPU)
    kernel_options: dict[str, Any] = KERNELS[kernels] or {"foreach": False}
    twin: Any = TWINS[kind](theirs.parameters(), **options, **kernel_options)
    assert implementation(optimizer) == kernels
    for batch in range(3):
        for model, one in ((ours, optimizer), (theirs, twin)):
            inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(batch))
            one.zero_grad()
            model(inputs).square().sum().backward()
            one.step()
        assert all(map(torch.equal, ours.parameters(), theirs.parameters()))
    assert not any(map(torch.equal, ours.parameters(), net().parameters()))


@pytest.mark.parametrize("kind", list(TWINS))
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "fused"),
        ({"fused": True}, "fused"),
        ({"fused": False}, "single"),
        ({"foreach": True}, "foreach"),
        ({"foreach": True, "fused": False}, "foreach"),
        ({"foreach": False}, "fused"),
        ({"foreach": False, "fused": True}, "fused"),
        ({"foreach": False, "fused": False}, "single"),
    ],
)
def test_kernels(kind: Kind, options: dict[str, bool], expected: str) -> None:
    assert implementation(build(make(kind, **options))) == expected


def test_fused_is_not_assumed_where_torch_may_lack_it() -> None:
    config, meta = SGD(), nn.Linear(2, 2, device="meta")
    optimizer = build_optimizer(config, meta.named_parameters(), torch.device("meta"))
    assert not optimizer.defaults["fused"]


@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("fused", [True, False])
def test_capturable_on_a_cpu_is_bad_input(kind: Kind, fused: bool) -> None:
    with pytest.raises(BadInput) as caught:
        build(make(kind, capturable=True, fused=fused))
    for word in ("optimizer.capturable = true", "CUDA", "cpu", "leave it out"):
        assert word in str(caught.value)


def members(optimizer: torch.optim.Optimizer) -> list[set[str]]:
    return [set(group["param_names"]) for group in optimizer.param_groups]


def test_groups_take_their_members_and_values() -> None:
    groups = (
        SGDGroup(pattern="*.bias", weight_decay=0.0, momentum=0.5, dampening=0.25),
        SGDGroup(pattern="0.*", lr=0.5),
    )
    optimizer = build(SGD(lr=0.1, momentum=0.9, weight_decay=0.01, groups=groups))
    assert members(optimizer) == [{"0.bias", "1.bias"}, {"0.weight"}, {"1.weight"}]
    values = [tuple(g[k] for k in ("lr", "momentum", "dampening", "weight_decay")) for g in optimizer.param_groups]
    assert values == [(0.1, 0.5, 0.25, 0.0), (0.5, 0.9, 0.0, 0.01), (0.1, 0.9, 0.0, 0.01)]


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_groups_of_adam_take_their_values(kind: Kind) -> None:
    group = AdamGroup(pattern="1.*", lr=0.5, betas=(0.1, 0.2), eps=0.3, weight_decay=0.4)
    first, rest = build(make(kind, lr=0.1, groups=(group,))).param_groups
    assert {key: first[key] for key in ("lr", "betas", "eps", "weight_decay")} == group.model_dump(exclude={"pattern"})
    defaults = torch_defaults(kind)
    assert [rest[key] for key in ("lr", "betas", "eps", "weight_decay")] == [
        0.1,
        *(defaults[key] for key in ("betas", "eps", "weight_decay")),
    ]


def test_first_match_wins() -> None:
    groups = (SGDGroup(pattern="1.*", lr=0.5), SGDGroup(pattern="*", lr=0.25))
    optimizer = build(SGD(groups=groups))
    assert members(optimizer) == [{"1.weight", "1.bias"}, {"0.weight", "0.bias"}]


def test_group_may_take_everything() -> None:
    optimizer = build(SGD(groups=(SGDGroup(pattern="*", lr=0.5),)))
    assert [group["lr"] for group in optimizer.param_groups] == [0.5]


def test_case_counts_in_a_pattern() -> None:
    with pytest.raises(BadInput):
        build(SGD(groups=(SGDGroup(pattern="*.BIAS"),)))


@pytest.mark.parametrize(
    "patterns", [("conv*",), ("*", "0.bias")], ids=["matches nothing", "an earlier group took them"]
)
def test_pattern_without_parameters_is_bad_input(patterns: tuple[str, ...]) -> None:
    with pytest.raises(BadInput) as caught:
        build(SGD(groups=tuple(SGDGroup(pattern=pattern) for pattern in patterns)))
    for word in ("optimizer.groups", repr(patterns[-1]), "0.weight", "0.bias", "1.weight", "1.bias"):
        assert word in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(patterns=st.lists(st.sampled_from(["*", "0.*", "1.*", "*.bias", "*.weight", "?.bias", "[01].weight", "1.bias"])))
def test_every_parameter_is_in_exactly_one_group(patterns: list[str]) -> None:
    try:
        optimizer = build(SGD(groups=tuple(SGDGroup(pattern=pattern) for pattern in patterns)))
    except BadInput:
        return
    taken = [name for group in members(optimizer) for name in group]
    assert sorted(taken) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert all(members(optimizer))


def test_groups_remember_names_and_the_peak_rate() -> None:
    optimizer = build(SGD(lr=0.125, groups=(SGDGroup(pattern="1.*", lr=0.5),)))
    assert [group["initial_lr"] for group in optimizer.param_groups] == [0.5, 0.125]
    for group in optimizer.param_groups:
        assert len(group["param_names"]) == len(group["params"])


REFUSED: dict[str, tuple[Kind, dict[str, Any], str]] = {
    "fused and foreach": (SGD, {"fused": True, "foreach": True}, r"optimizer\.fused and optimizer\.foreach"),
    "differentiable": (Adam, {"differentiable": True}, r"optimizer\.differentiable = true.*leave it out"),
    "nesterov alone": (SGD, {"nesterov": True}, r"optimizer\.nesterov = true.*momentum > 0"),
    "nesterov damped": (SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, r"optimizer\.dampening = 0\.1"),
    "dampening alone": (SGD, {"dampening": 0.1}, r"optimizer\.dampening = 0\.1.*optimizer\.momentum"),
    "group without momentum": (
        SGD,
        {"nesterov": True, "momentum": 0.9, "groups": [{"pattern": "*.bias", "momentum": 0.0}]},
        r"'\*\.bias'.*momentum > 0",
    ),
    "decoupled without decay": (Adam, {"decoupled_weight_decay": True}, r"optimizer\.weight_decay"),
    "negative rate": (AdamW, {"lr": -0.1}, "lr"),
    "beta of one": (AdamW, {"betas": (0.9, 1.0)}, "betas"),
    "infinite rate": (SGD, {"lr": float("inf")}, "lr"),
    "unknown key": (SGD, {"beta": 0.1}, "beta"),
    "momentum of adam's group": (Adam, {"groups": [{"pattern": "*", "momentum": 0.1}]}, "momentum"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_senseless_combinations_are_refused(case: str) -> None:
    kind, options, words = REFUSED[case]
    with pytest.raises(ValidationError, match=f"(?s){words}"):
        make(kind, **options)
