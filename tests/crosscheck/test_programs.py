"""NumPy computes what JAX traced as XLA does, and nothing that a replay knows has to be compiled for a few rows."""

from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crosscheck.criterion.elementwise import compare, judge
from crosscheck.criterion.exact_step import exact_step
from crosscheck.criterion.measure import measure
from crosscheck.criterion.profile import Rounding
from crosscheck.diagnosis import trial
from crosscheck.diagnosis.catalogue import CATALOGUE
from crosscheck.diagnosis.trial import Candidate, exact, exact_along
from crosscheck.float64 import float64
from crosscheck.programs import call
from crosscheck.rules import RULES
from crosscheck.rules.adam import AdamFlags, Decay
from crosscheck.rules.average import MOVING_AVERAGE, AverageFlags
from crosscheck.rules.clipping import CLIPPING, ClipFlags
from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Flags, Rule
from crosscheck.rules.sgd import SGDFlags

ROWS, WIDTH = 3, 64
SPECIAL = (0.0, -0.0, np.inf, -np.inf, np.nan, 1e-310, -1e300)
H = {"lr": 0.01, "last_lr": 0.02, "weight_decay": 0.1, "sign": 1.0, "loss_scale": 1024.0, "beta1": 0.9, "beta2": 0.999}
OTHERS = {"eps": 1e-8, "momentum": 0.9, "dampening": 0.1, "decay": 0.99, "seen": 2.0, "world_size": 2.0}
BOUNDS = {"clip_norm": 1.0, "norm": 3.0, "norm_eps": 1e-6, "norm_error": 5.0, "clip_value": 0.5}
SGD_FLAGS = [SGDFlags(*flags) for flags in product([False, True], repeat=3) if flags[0] or not flags[1]]
ADAM_FLAGS = [AdamFlags(*flags) for flags in product([False, True], get_args(Decay))]
FORMULAS: list[tuple[Rule[Any], Flags]] = [
    *((RULES["sgd"], flags) for flags in SGD_FLAGS),
    *((RULES["adamw"], flags) for flags in ADAM_FLAGS),
    *((CLIPPING, ClipFlags(by)) for by in ("nothing", "norm", "value")),
    *((MOVING_AVERAGE, AverageFlags(equal)) for equal in (False, True)),
]


def drawn(rule: Rule[Any], flags: Flags) -> Inputs:
    """Return random rows, with numbers among them that floating point treats in ways of their own."""
    draw = np.random.default_rng(0)
    slots = rule.elementwise(flags)
    outputs = len(slots) + 1

    def numbers() -> Any:
        found = draw.normal(size=(ROWS, WIDTH)) * 10.0 ** draw.integers(-8, 3, (ROWS, WIDTH))
        found[:, : 2 * len(SPECIAL)] = draw.permuted(np.resize([*SPECIAL, 1.0], (ROWS, 2 * len(SPECIAL))), axis=1)
        return found

    values = {name: numbers() for name in ("param", "grad", *slots, *rule.extras)}
    values |= {name: np.abs(values[name]) for name in slots if name.endswith("_sq")}
    each = {name: np.full((ROWS, outputs), 1e-7) for name in Rounding.__dataclass_fields__}
    return Inputs(
        values=values,
        recorded={name: values[name] * 1.001 for name in ("param", *slots)},
        width=np.full(ROWS, WIDTH, np.int32),
        judged=np.ones((ROWS, outputs), np.bool_),
        hyperparameters={name: np.full(ROWS, number) for name, number in (H | OTHERS | BOUNDS).items()},
        counts={name: np.arange(ROWS, dtype=np.int32) for name in rule.counts(flags)},
        absent={name: np.arange(ROWS) == 0 for name in rule.absent_at_first(flags)},
        **{**each, "largest": np.full((ROWS, outputs), 3e38)},
        scalar_error=np.full(ROWS, 1e-8),
        beta_error=np.full(ROWS, 1e-8),
        rounds_between=np.ones(ROWS, np.bool_),
        biased=np.zeros(ROWS, np.bool_),
    )


def compiled() -> int:
    """Return how many programs were compiled for the criterion and the diagnosis."""
    of_diagnosis: list[Any] = [getattr(trial, name) for name in ("_one_step_of_all", "_along", "_along_slot")]
    programs: list[Any] = [exact_step, measure, *of_diagnosis]
    return sum(program._cache_size() for program in programs)


@pytest.mark.parametrize(
    ("rule", "flags"),
    [
        (RULES["sgd"], SGDFlags(momentum=True, nesterov=True, decay=True)),
        (RULES["adamw"], AdamFlags(amsgrad=True, decay="decoupled")),
        (CLIPPING, ClipFlags("value")),
    ],
    ids=["sgd", "adamw", "clipping"],
)
def test_numpy_and_xla_say_the_same(rule: Rule[Any], flags: Flags) -> None:
    inputs = drawn(rule, flags)
    with float64(), np.errstate(all="ignore"):
        by_numpy, by_xla = compare(rule, flags, inputs), compare(rule, flags, inputs, often=True)
    for name in ("param", *rule.elementwise(flags)):
        for one, other in ((by_numpy.exact, by_xla.exact), (by_numpy.eta, by_xla.eta)):
            np.testing.assert_allclose(one[name], other[name], rtol=1e-9, atol=1e-300)
        np.testing.assert_array_equal(by_numpy.judged[name], by_xla.judged[name])
        np.testing.assert_array_equal(by_numpy.out_of_range[name], by_xla.out_of_range[name])
    assert np.max(by_numpy.eta["param"]) > 1


def test_no_formula_of_a_rule_is_compiled_for_a_few_batches() -> None:
    before = compiled()
    with float64(), np.errstate(all="ignore"):
        for rule, flags in FORMULAS:
            judge(rule, flags, drawn(rule, flags))
    assert compiled() == before


def test_no_mistake_is_compiled() -> None:
    before = compiled()
    with float64(), np.errstate(all="ignore"):
        for rule, flags in FORMULAS:
            right, known = Candidate("", rule, flags, drawn(rule, flags)), CATALOGUE[rule.name]
            along = {name: np.ones(ROWS) for name in rule.hyperparameters_read(flags)}
            if along:
                exact_along(right, along, [along])
            for _, chain in (*known.formulas(flags), *known.pairs(flags)):
                assert set(exact(replace(right, rule=replace(rule, chain=chain)))) == set(right.outputs)
    assert compiled() == before


def test_powers_are_those_of_a_good_library() -> None:
    """The bias corrections of a float64 step amplify their errors a thousand times, and nothing excuses these."""

    def power(base: jax.Array, exponent: jax.Array) -> jax.Array:
        return base**exponent

    beta, steps = 1 - np.geomspace(1e-4, 0.5, 400), np.arange(400, dtype=np.int32) % 40
    with float64():
        found = call(jax.jit(power), (), beta, steps)
    exact = [Fraction(float(b)) ** int(t) for b, t in zip(beta, steps, strict=True)]
    units = [abs(Fraction(float(f)) - e) / Fraction(float(np.spacing(f))) for f, e in zip(found, exact, strict=True)]
    assert max(units) < 0.51


def test_an_operation_that_numpy_is_not_known_to_have_is_compiled() -> None:
    def summed(values: jax.Array) -> jax.Array:
        return jnp.cumsum(values) + 1

    program: Any = jax.jit(summed)
    assert list(call(program, (), np.arange(3.0))) == [1, 2, 4]
    assert program._cache_size() == 1


def test_constants_and_programs_within_a_program() -> None:
    @jax.jit
    def inner(value: jax.Array) -> jax.Array:
        return jnp.where(value > 1, value**3, -value)

    def outer(a: jax.Array, b: jax.Array) -> dict[str, jax.Array]:
        return {"sum": inner(a) + inner(b) + jnp.asarray([[1.0], [2.0]]), "a": a}

    program: Any = jax.jit(outer)
    found = call(program, (), np.arange(3.0), np.float64(2))
    assert found["sum"].tolist() == [[9, 8, 17], [10, 9, 18]]
    assert found["a"].tolist() == [0, 1, 2]
    assert program._cache_size() == 0
