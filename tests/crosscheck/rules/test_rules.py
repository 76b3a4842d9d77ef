"""The rules agree with torch when both run freely in float64 from the same start."""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch

from crosscheck.atlas import Atlas, Combination, Row, combinations, draw
from crosscheck.rules import RULES
from crosscheck.rules.compose import compose
from crosscheck.testing import check_optimizer, gradient

SAME = 1e-12
COMBINATIONS = tuple(combinations())
COUNTS = {"sgd": 28, "adam": 32, "adamw": 16}
STOCK_AGREES = {"sgd": 15, "adam": 12, "adamw": 4}


@pytest.fixture(scope="module")
def table() -> Atlas:
    return draw(implementations=(), dtypes=())


def row_of(table: Atlas, combination: Combination) -> Row:
    (row,) = [row for row in table.rows if (row.rule, row.options) == (combination.rule, combination.options)]
    return row


def ids(combination: Combination) -> str:
    return combination.label


def active(options: Mapping[str, Any]) -> set[str]:
    """Return the options that have an effect. torch uses dampening only with momentum."""
    on = {name for name, value in options.items() if value}
    return on if "momentum" in on else on - {"dampening"}


def test_all_legal_combinations_are_there() -> None:
    """There are 28 of SGD and 48 of Adam and AdamW, all different, and torch accepts each."""
    counts = {rule: sum(combination.rule == rule for combination in COMBINATIONS) for rule in RULES}
    assert counts == COUNTS
    assert counts["adam"] + counts["adamw"] == 48
    assert len({(c.rule, str(sorted(c.options.items()))) for c in COMBINATIONS}) == 76
    classes = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    for combination in COMBINATIONS:
        classes[combination.rule]([torch.zeros(1, requires_grad=True)], **combination.options)


@pytest.mark.parametrize("combination", COMBINATIONS, ids=ids)
def test_our_composition_is_torch_and_the_stock_alias_only_where_it_can_be(
    combination: Combination, table: Atlas
) -> None:
    row = row_of(table, combination)
    assert row.composition_difference < SAME
    assert row.composition_agrees
    on = active(combination.options)
    # Optax has no argument for dampening, and another order of operations for amsgrad.
    missing = "dampening" in on or "amsgrad" in on
    reversed_decay = {"maximize", "weight_decay"} <= on  # a negative learning rate also changes the sign of the decay
    assert row.stock_agrees == (not missing and not reversed_decay)
    if not row.stock_agrees:
        assert row.stock_difference > 1e-2  # far more than rounding


def test_the_stock_alias_agrees_in_15_of_28_and_16_of_48(table: Atlas) -> None:
    counts = {rule: sum(row.stock_agrees for row in table.rows if row.rule == rule) for rule in RULES}
    assert counts == STOCK_AGREES
    assert counts["adam"] + counts["adamw"] == 16


@pytest.mark.parametrize("combination", COMBINATIONS, ids=ids)
def test_a_piece_of_our_own_only_where_optax_has_none(combination: Combination, table: Atlas) -> None:
    on = active(combination.options)
    pieces = [*(["dampen"] if "dampening" in on else []), *(["scale_by_torch_amsgrad"] if "amsgrad" in on else [])]
    assert list(row_of(table, combination).own) == pieces


@pytest.mark.parametrize(
    ("own", "options"),
    [((), {}), ((), {"momentum": 0.9}), ((), {"dampening": 0.5}), (("dampen",), {"momentum": 0.9, "dampening": 0.5})],
    ids=str,
)
def test_the_report_names_the_pieces_of_our_own(own: tuple[str, ...], options: dict[str, Any]) -> None:
    report = check_optimizer(lambda params: torch.optim.SGD(params, lr=0.1, **options), steps=3, regimes=["typical"])
    assert report.own == own
    assert ("own pieces in the rule, not Optax's: dampen" in str(report)) == bool(own)


# Parameter groups -----------------------------------------------------------------------------------------------------

STEPS = 20
SHAPES = {"weight": (5, 7), "bias": (7,), "late": (3, 4), "idle": (6,)}
GROUP_OF = {"weight": 0, "bias": 1, "late": 1, "idle": 0}
FIRST_GRADIENT = {"weight": 0, "bias": 0, "late": 8, "idle": STEPS}  # the first step at which each has a gradient
GROUPS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "sgd": (
        "sgd",
        [
            {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.02, "nesterov": False, "maximize": True},
            {"lr": 0.03, "momentum": 0.8, "dampening": 0.6, "weight_decay": 0.0, "nesterov": False, "maximize": False},
        ],
    ),
    "sgd, another shape by group": (
        "sgd",
        [
            {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "nesterov": True, "maximize": False},
            {"lr": 0.03, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.1, "nesterov": False, "maximize": False},
        ],
    ),
    "adam": (
        "adam",
        [
            {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.02, "amsgrad": True, "maximize": True},
            {"lr": 0.003, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.0, "amsgrad": False, "maximize": False},
        ],
    ),
    "adamw": (
        "adamw",
        [
            {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.3, "amsgrad": False, "maximize": False},
            {"lr": 0.003, "betas": (0.7, 0.95), "eps": 1e-6, "weight_decay": 0.1, "amsgrad": True, "maximize": True},
        ],
    ),
}
Arrays = dict[str, Any]


def gradients() -> list[dict[str, torch.Tensor | None]]:
    def one(step: int, number: int, name: str) -> torch.Tensor | None:
        shape = SHAPES[name]
        if step < FIRST_GRADIENT[name] or (name == "bias" and step % 5 == 4):  # the gradient of `bias` comes and goes
            return None
        return gradient("typical", int(np.prod(shape)), torch.float64, 100 * step + number).view(shape)

    return [{name: one(step, number, name) for number, name in enumerate(SHAPES)} for step in range(STEPS)]


def start() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in SHAPES.items()}


def by_torch(rule: str, groups: list[dict[str, Any]]) -> Arrays:
    parameters = {name: torch.nn.Parameter(value) for name, value in start().items()}
    members = [[parameters[name] for name, group in GROUP_OF.items() if group == k] for k in range(len(groups))]
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[rule]
    optimizer = kind([{"params": list(those), **options} for those, options in zip(members, groups, strict=True)])
    for step in gradients():
        for name, value in step.items():
            parameters[name].grad = value
        optimizer.step()
    return {name: parameter.detach().numpy() for name, parameter in parameters.items()}


def by_optax(rule: str, groups: list[dict[str, Any]]) -> tuple[Arrays, int]:
    """Return the final parameters, and how often the step was traced."""
    transformation: Any = compose(RULES[rule], groups, GROUP_OF)
    traced: list[None] = []

    def once(params: Arrays, state: Any, grads: Arrays, present: Arrays) -> tuple[Any, Any]:
        traced.append(None)
        updates, state = transformation.update(grads, state, params, present=present)
        return optax.apply_updates(params, updates), state

    step: Any = jax.jit(once)
    params: Any = {name: jax.numpy.asarray(value.numpy()) for name, value in start().items()}
    state: Any = transformation.init(params)
    for given in gradients():
        grads = {name: np.zeros(SHAPES[name]) if value is None else value.numpy() for name, value in given.items()}
        present = {name: np.asarray(value is not None) for name, value in given.items()}
        params, state = step(params, state, grads, present)
    return {name: np.asarray(value) for name, value in params.items()}, len(traced)


@pytest.mark.parametrize(("rule", "groups"), GROUPS.values(), ids=GROUPS)
def test_groups_late_gradients_and_skipped_tensors_as_in_torch(rule: str, groups: list[dict[str, Any]]) -> None:
    theirs = by_torch(rule, groups)
    with jax.enable_x64(True):
        ours, traced = by_optax(rule, groups)
    assert traced == 1  # compiled once for all steps, whichever tensors are present
    before = {name: value.numpy() for name, value in start().items()}
    for name in ("weight", "bias", "late"):
        way = np.abs(theirs[name] - before[name]).max()
        assert way > 1e-3  # the parameters moved
        assert np.abs(theirs[name] - ours[name]).max() < SAME * way
    assert np.array_equal(ours["idle"], before["idle"])  # without a gradient there is no decay either
    assert np.array_equal(theirs["idle"], before["idle"])


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_names_left_out_are_present(rule: str) -> None:
    _, groups = GROUPS[rule]
    params = {name: np.ones(3) for name in ("a", "b")}
    grads = {name: np.full(3, 0.5) for name in params}
    with jax.enable_x64(True):
        chain: Any = compose(RULES[rule], groups, {"a": 0, "b": 0})
        plain, _ = chain.update(grads, chain.init(params), params)
        partial, _ = chain.update(grads, chain.init(params), params, present={"b": False})
    assert np.array_equal(plain["a"], plain["b"])
    assert np.abs(plain["a"]).min() > 0
    assert np.array_equal(partial["a"], plain["a"])
    assert not np.any(partial["b"])


def test_a_gradient_of_zeros_is_not_the_same_as_none() -> None:
    """A gradient of zeros decays the tensor and counts the step. `present` prevents both for a tensor without one."""
    rule, groups = GROUPS["adam"]
    with jax.enable_x64(True):
        chain: Any = compose(RULES[rule], groups, {"a": 0})
        params = {"a": np.ones(3)}
        updates, _ = chain.update({"a": np.zeros(3)}, chain.init(params), params)
        kept, _ = chain.update({"a": np.zeros(3)}, chain.init(params), params, present={"a": False})
    assert np.abs(updates["a"]).min() > 0
    assert not np.any(kept["a"])


BLOCKED = """
import sys
sys.modules["torch"] = None  # an import of it raises
from crosscheck import replay
from crosscheck.rules import RULES, adam, compose, own, rule, sgd
from crosscheck.rules.compose import compose
compose(RULES["adam"], [{"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}], {"a": 0})
print(*RULES)
"""


def test_the_rules_import_no_torch() -> None:
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["sgd", "adam", "adamw"]
