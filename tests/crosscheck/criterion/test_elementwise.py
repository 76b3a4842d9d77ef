"""The promises of the criterion, tested on rows made by hand. The step is p - lr b with b = mu m + (1 - tau)(g + wd p).

eta counts roundoffs beyond what storing explains: a correctly rounded result has an eta of zero, and an injected error of
the slack and k roundoffs of the change has eta k.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from crosscheck import Recorder, Report, Verdict, replay
from crosscheck.criterion.aggregate import Sums
from crosscheck.criterion.elementwise import Judged, compare, judge
from crosscheck.criterion.exact_step import exact_step
from crosscheck.criterion.measure import measure
from crosscheck.float64 import float64
from crosscheck.rules import RULES
from crosscheck.rules.adam import AdamFlags
from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Flags
from crosscheck.rules.sgd import SGDFlags
from crosscheck.tolerance import FAIL, FORMATS, WARN
from crosscheck.trace.format import DType

Floats = NDArray[np.float64]
ROWS, WIDTH = 4, 32
SGD, ADAM = RULES["sgd"], RULES["adam"]
MOMENTUM, DECAYED, PLAIN = SGDFlags(momentum=True), SGDFlags(momentum=True, decay=True), SGDFlags()
BUFFER = "momentum_buffer"
SGD_H = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "weight_decay": 0.0, "sign": 1.0}
ADAM_H = {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0, "sign": 1.0}
NUMPY: dict[DType, Any] = {
    "float64": np.float64,
    "float32": np.float32,
    "bfloat16": ml_dtypes.bfloat16,
    "float16": np.float16,
}


def spread(values: Any) -> Floats:
    """Return a whole batch in which each row repeats the values."""
    return np.broadcast_to(np.resize(np.asarray(values, np.float64), WIDTH), (ROWS, WIDTH)).copy()


def batch(
    before: Mapping[str, Any], after: Mapping[str, Any], h: Mapping[str, float], dtype: DType = "float32", **more: Any
) -> Inputs:
    """Return a batch whose rows are all equal. `before` and `after` give one element or a row of them."""
    format_, outputs = FORMATS[dtype], len(after)
    inputs = Inputs(
        values={name: spread(value) for name, value in before.items()},
        recorded={name: spread(value) for name, value in after.items()},
        width=np.full(ROWS, WIDTH, np.int32),
        judged=np.ones((ROWS, outputs), np.bool_),
        hyperparameters={name: np.full(ROWS, value) for name, value in h.items()},
        counts={"step": np.zeros(ROWS, np.int32)} if "exp_avg" in before else {},
        absent={BUFFER: np.zeros(ROWS, np.bool_)} if BUFFER in before else {},
        size_error=np.full((ROWS, outputs), 2 * format_.unit_roundoff),
        result_error=np.zeros((ROWS, outputs)),
        lost=np.full((ROWS, outputs), 2 * format_.floor),
        compute_error=np.full((ROWS, outputs), format_.unit_roundoff),
        floor=np.full((ROWS, outputs), format_.floor),
        largest=np.full((ROWS, outputs), format_.largest),
        scalar_error=np.zeros(ROWS),
        beta_error=np.zeros(ROWS),
        rounds_between=np.zeros(ROWS, np.bool_),
        biased=np.zeros(ROWS, np.bool_),
    )
    return replace(inputs, **more)


def judged(flags: Flags, inputs: Inputs) -> Judged:
    with float64():
        rule = ADAM if "exp_avg" in inputs.values else SGD
        return judge(rule, flags, inputs)


def passes(result: Judged) -> bool:
    return bool((result.eta <= FAIL).all())


def sgd(p: float, g: float, m: float, h: Mapping[str, float] = SGD_H) -> tuple[Fraction, Fraction]:
    """Return the exact parameter and buffer after a step."""
    lr, mu, keep, wd = map(Fraction, (h["lr"], h["momentum"], 1 - h["dampening"], h["weight_decay"]))
    buffer = mu * Fraction(m) + keep * (Fraction(g) + wd * Fraction(p))
    return Fraction(p) - lr * buffer, buffer


def rounded(value: Fraction, dtype: DType) -> float:
    return float(NUMPY[dtype](float(value)))


def magnitudes(dtype: DType) -> st.SearchStrategy[float]:
    """Return a strategy for numbers of the format over most of its range, of both signs, and zero."""
    top = math.log2(FORMATS[dtype].largest) - 4
    exponents = st.floats(-24.0 if dtype == "float16" else -top - 8, top)
    signed = st.tuples(exponents, st.sampled_from((-1.0, 1.0))).map(lambda pair: pair[1] * 2 ** pair[0])
    return st.one_of(st.just(0.0), signed).map(lambda value: float(NUMPY[dtype](value)))


@pytest.mark.parametrize("dtype", NUMPY)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_correctly_rounded_step_is_explained_by_storing_it(dtype: DType, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.tuples(*[magnitudes(dtype)] * 3), min_size=1, max_size=WIDTH))
    p, g, m = (list(column) for column in zip(*rows, strict=True))
    exact = [sgd(*row) for row in rows]
    after = [[rounded(values[k], dtype) for values in exact] for k in (0, 1)]
    result = judged(
        MOMENTUM,
        batch({"param": p, "grad": g, BUFFER: m}, dict(zip(("param", BUFFER), after, strict=True)), SGD_H, dtype),
    )
    # In float64 the reference is rounded too, once for each of its operations.
    assert result.eta.max() <= (4.0 if dtype == "float64" else 0.0)
    assert result.out_of_range.sum() == 0
    assert result.checked.sum() == 2 * ROWS * WIDTH
    assert not result.over.any()


@pytest.mark.parametrize("dtype", NUMPY)
@settings(max_examples=40, deadline=None)
@given(
    k=st.floats(0.01, 1e4), p=st.floats(-8, 8), g=st.floats(-8, 8), m=st.floats(-8, 8), sign=st.sampled_from((-1, 1))
)
@example(k=1.0, p=0.0, g=1.25, m=-1.5, sign=-1)  # the terms of the step cancel
def test_k_roundoffs_of_the_change_measure_k(dtype: DType, k: float, p: float, g: float, m: float, sign: int) -> None:
    """The unit is a roundoff of the change and of every input times the derivative of the change with respect to it."""
    assume(abs(g) + abs(m) > 1e-3)  # without a change there is no unit
    param, buffer = (float(value) for value in sgd(p, g, m))
    of_buffer = abs(buffer - m) + abs(0.9 - 1) * abs(m) + abs(g)
    of_param = abs(param - p) + 0.1 * (0.9 * abs(m) + abs(g) + abs(buffer))  # the last is what the rate adds
    u, lost = FORMATS[dtype].unit_roundoff, 2 * FORMATS[dtype].floor
    before = {"param": p, "grad": g, BUFFER: m}
    after = {
        "param": param + sign * (2 * u * max(abs(p), abs(param)) + lost + k * u * of_param),
        BUFFER: buffer - sign * (2 * u * max(abs(m), abs(buffer)) + lost + 2 * k * u * of_buffer),
    }
    eta = judged(MOMENTUM, batch(before, after, SGD_H, dtype)).eta
    # The rounding of the reference and of `after`: some roundoffs of float64 of the numbers and of what they are sums of.
    own = [
        4 * 2.0**-53 * magnitude / (u * of + 1e-300)
        for magnitude, of in (
            (abs(p) + abs(param) + 0.1 * (0.9 * abs(m) + abs(g)), of_param),
            (abs(m) + abs(buffer) + 0.9 * abs(m) + abs(g), of_buffer),
        )
    ]
    assert eta[:, 0] == pytest.approx(k, rel=1e-6, abs=own[0])
    assert eta[:, 1] == pytest.approx(2 * k, rel=1e-6, abs=own[1])


BEFORE = {"param": 1.5, "grad": 0.25, BUFFER: -0.75}
AFTER = {"param": float(sgd(1.5, 0.25, -0.75)[0]), BUFFER: float(sgd(1.5, 0.25, -0.75)[1])}


def at(values: Mapping[str, Any], name: str, value: float, element: int = 5) -> dict[str, Floats]:
    """Return rows of these values with one element changed."""
    changed = {key: np.full(WIDTH, np.float64(each)) for key, each in values.items()}
    changed[name][element] = value
    return changed


@pytest.mark.parametrize("name", ["param", BUFFER])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30], ids=str)
def test_what_is_not_a_number_is_no_match(name: str, value: float) -> None:
    result = judged(MOMENTUM, batch(BEFORE, at(AFTER, name, value), SGD_H))
    output = ["param", BUFFER].index(name)
    assert not passes(result)
    assert (not np.isfinite(result.eta[:, output]).any()) == (not math.isfinite(value))
    assert not np.isnan(result.eta).any()
    assert (result.element[:, output] == 5).all()
    assert (result.over[:, output] == 1).all()
    assert (result.over[:, 1 - output] == 0).all()
    assert np.array_equal(result.recorded[:, output], [value] * ROWS, equal_nan=True)


def both(param: float, buffer: float) -> dict[str, Floats]:
    """Return the correct rows, except for one element of the parameter and one of the buffer."""
    return {"param": at(AFTER, "param", param)["param"], BUFFER: at(AFTER, BUFFER, buffer)[BUFFER]}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf], ids=str)
def test_not_a_number_out_of_not_a_number_is_right(value: float) -> None:
    """An infinite gradient correctly makes an infinite step. A finite number in its place is a mismatch."""
    before = at(BEFORE, "grad", value)
    assert passes(judged(MOMENTUM, batch(before, both(-value, value), SGD_H)))
    assert not passes(judged(MOMENTUM, batch(before, both(AFTER["param"], value), SGD_H)))
    assert not passes(judged(MOMENTUM, batch(before, both(-value, AFTER[BUFFER]), SGD_H)))
    assert not passes(judged(MOMENTUM, batch(before, AFTER, SGD_H)))


@pytest.mark.parametrize(("recorded", "right"), [(math.inf, True), (-math.inf, False), (math.nan, False)], ids=str)
def test_an_overflow_is_excused_in_its_own_direction_only(recorded: float, right: bool) -> None:
    before = at(BEFORE, "grad", 3e38)
    before[BUFFER][5] = 3e38
    stored = np.ones(ROWS, np.bool_)
    assert passes(judged(MOMENTUM, batch(before, both(-math.inf, recorded), SGD_H, rounds_between=stored))) == right


def test_a_result_beyond_the_format_is_counted_and_not_judged() -> None:
    """The buffer correctly overflows, and so does the parameter that is computed from it. Neither is judged."""
    before = at(BEFORE, "grad", 3e38)
    before[BUFFER][5] = 3e38
    stored = np.ones(ROWS, np.bool_)  # the parameter is computed from the buffer as it was stored
    result = judged(MOMENTUM, batch(before, both(-math.inf, math.inf), SGD_H, rounds_between=stored))
    assert passes(result)
    assert (result.out_of_range == 1).all()
    assert (result.checked == WIDTH - 1).all()
    # A finite number in the place of an overflow does not come from the formula.
    wrong = judged(MOMENTUM, batch(before, AFTER, SGD_H))
    assert not passes(wrong)
    assert (wrong.out_of_range == 0).all()


def test_an_infinity_within_the_range_is_judged() -> None:
    result = judged(MOMENTUM, batch(BEFORE, at(AFTER, BUFFER, math.inf), SGD_H))
    assert (result.out_of_range == 0).all()
    assert np.isinf(result.eta[:, 1]).all()


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=str)
def test_an_infinite_input_excuses_no_result_that_should_be_finite(value: float) -> None:
    """What is divided by an infinite second moment is zero, so the parameter stays where it is."""
    before = {"param": 1.5, "grad": 0.5, "exp_avg": 0.5, "exp_avg_sq": math.inf}
    right = {"param": 1.5, "exp_avg": 0.5, "exp_avg_sq": math.inf}
    assert passes(judged(AdamFlags(), batch(before, right, ADAM_H)))
    assert not passes(judged(AdamFlags(), batch(before, right | {"param": value}, ADAM_H)))


ADAM_ZERO = {"param": 1.5, "grad": 0.0, "exp_avg": 0.0, "exp_avg_sq": 0.0}


def test_zeros_give_no_nan() -> None:
    """The root has no derivative at zero, and 0 / eps is zero."""
    still = {"param": 1.5, "exp_avg": 0.0, "exp_avg_sq": 0.0}
    flags = AdamFlags()
    result = judged(flags, batch(ADAM_ZERO, still, ADAM_H))
    assert (result.eta == 0).all()
    assert not any(np.isnan(smallest).any() for smallest in result.smallest.values())
    for name in still:
        moved = judged(flags, batch(ADAM_ZERO, at(still, name, still[name] + 1e-3), ADAM_H))
        assert not passes(moved)
        assert np.isfinite(moved.eta).all()
    nothing = judged(MOMENTUM, batch(dict.fromkeys(BEFORE, 0.0), dict.fromkeys(AFTER, 0.0), SGD_H))
    assert (nothing.eta == 0).all()
    assert not passes(
        judged(MOMENTUM, batch(dict.fromkeys(BEFORE, 0.0), at(dict.fromkeys(AFTER, 0.0), BUFFER, 1e-30), SGD_H))
    )


@pytest.mark.parametrize(
    ("v", "caught"),
    [
        (1e-41, False),  # a denormal number, for which the error is no larger than rounding
        (2.0**-127, False),
        (2.0**-126, False),
        (2.0**-125, False),
        (2.0**-125 * 1.01, True),  # just above what two numbers below the floor may lose
        (1e-30, True),
    ],
)
def test_a_second_moment_twice_too_large_is_caught_above_the_floor(v: float, caught: bool) -> None:
    """The rounding of denormal numbers is absolute, so these may be off by a factor.

    The parameter that is computed from them is judged by itself.
    """
    before = {**ADAM_ZERO, "exp_avg_sq": v}
    after = {"param": 1.5, "exp_avg": 0.0, "exp_avg_sq": 0.999 * v}
    flags = AdamFlags()
    assert passes(judged(flags, batch(before, after, ADAM_H)))
    result = judged(flags, batch(before, {**after, "exp_avg_sq": 2 * 0.999 * v}, ADAM_H))
    assert passes(result) == (not caught)
    if not caught:
        assert (result.eta[:, 2] == 0).all()  # what is lost is no error, however large the limit


def observed(optimizer: torch.optim.Optimizer, p: torch.nn.Parameter, grads: list[torch.Tensor], trace: Path) -> Report:
    with Recorder(optimizer, trace, steps="all", rule="sgd"):
        for g in grads:
            p.grad = g
            optimizer.step()
    return replay(trace)


def test_many_elements_of_adams_first_step_stay_far_from_the_limit(tmp_path: Path) -> None:
    """Nothing but roundings is in that step, because m / sqrt(v) is one; among three million numbers some add up."""
    torch.manual_seed(1)
    p = torch.nn.Parameter(0.02 * torch.randn(1_000_000))
    p.grad = 1e-3 * torch.randn_like(p)
    optimizer = torch.optim.Adam([p], lr=0.01, fused=True)
    with Recorder(optimizer, tmp_path / "trace", budget="full"):
        optimizer.step()
    report = replay(tmp_path / "trace")
    assert report.elements > 3_000_000
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.max_eta < 0.6 * WARN, str(report)


def test_denormal_numbers_on_record_are_not_taken_for_zeros(tmp_path: Path) -> None:
    """With lr = 1e6 their step is well above the floor, so if they were taken for zero, every element would be wrong."""
    p = torch.nn.Parameter(torch.zeros(300))
    grads = [torch.linspace(1e-40, 9e-39, 300) * (-1) ** k for k in range(4)]
    report = observed(torch.optim.SGD([p], lr=1e6, momentum=0.5), p, grads, tmp_path / "trace")
    assert float(p.detach().abs().min()) > 1e-35  # torch did not flush them to zero either
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.max_eta <= WARN


class Flushing(torch.optim.SGD):
    """An SGD that takes denormal gradients for zeros."""

    def step(self, closure: Any = None) -> Any:
        del closure
        for p in (p for group in self.param_groups for p in group["params"]):
            p.grad = torch.where(p.grad.abs() < torch.finfo(p.dtype).tiny, 0.0, p.grad)
        super().step()


def test_an_optimizer_that_flushes_them_is_caught(tmp_path: Path) -> None:
    p = torch.nn.Parameter(torch.zeros(300))
    grads = [torch.linspace(1e-40, 9e-39, 300) for _ in range(2)]
    report = observed(Flushing([p], lr=1e6), p, grads, tmp_path / "trace")
    assert report.verdict is Verdict.MISMATCH
    (finding,) = report.findings
    assert (finding.recorded, finding.index) == (0.0, (299,))
    assert finding.expected == pytest.approx(-9e-33, rel=1e-6)


@pytest.mark.parametrize("junk", [0.0, 7.0, math.nan, math.inf, -1e300], ids=str)
def test_padding_never_shows(junk: float) -> None:
    """It shows neither beyond the width of a row nor in rows that are padding as a whole."""
    width = np.array([WIDTH, 10, 1, 0], np.int32)
    after = at(at(AFTER, "param", AFTER["param"]), BUFFER, AFTER[BUFFER], 0)
    clean = batch(BEFORE, {**after, BUFFER: after[BUFFER] * (1 + 1e-6)}, SGD_H)
    dirty = batch(BEFORE, {**after, BUFFER: after[BUFFER] * (1 + 1e-6)}, SGD_H)
    for array in (*dirty.values.values(), *dirty.recorded.values()):
        for row, its in enumerate(width):
            array[row, its:] = junk
    for name, values in dirty.hyperparameters.items():
        values[3] = junk if name != "sign" else 1.0
    one, other = (judged(MOMENTUM, replace(inputs, width=width)) for inputs in (clean, dirty))
    for field in ("eta", "element", "over", "checked", "out_of_range"):
        assert np.array_equal(getattr(one, field), getattr(other, field)), field
    assert all(np.array_equal(smallest[:3], other.smallest[name][:3]) for name, smallest in one.smallest.items())
    for field in Sums.__dataclass_fields__:
        assert np.allclose(getattr(one.sums, field)[:3], getattr(other.sums, field)[:3]), field
    assert np.array_equal(other.checked, np.stack([width, width], axis=1))
    assert (other.element[:3] < width[:3, None]).all()
    assert (other.eta[3] == 0).all()
    assert (other.eta[:3, 1] > 1).all()  # a true error was there and shows


def test_outputs_that_are_not_on_record_are_not_judged() -> None:
    wrong = {name: value + 1 for name, value in AFTER.items()}
    there = np.tile([True, False], (ROWS, 1))
    result = judged(MOMENTUM, batch(BEFORE, wrong, SGD_H, judged=there))
    assert (result.eta[:, 0] > FAIL).all()
    assert (result.eta[:, 1] == 0).all()
    assert np.array_equal(result.checked, np.tile([WIDTH, 0], (ROWS, 1)))


USED: dict[str, tuple[Flags, dict[str, float], dict[str, float], set[str]]] = {
    "sgd": (DECAYED, {**SGD_H, "dampening": 0.4, "weight_decay": 0.05}, BEFORE, set()),
    "sgd, p = 0": (
        DECAYED,
        {**SGD_H, "dampening": 0.4, "weight_decay": 0.05},
        {**BEFORE, "param": 0.0},
        {"weight_decay"},
    ),
    "sgd, b = 0": (DECAYED, {**SGD_H, "dampening": 0.4, "weight_decay": 0.05}, {**BEFORE, BUFFER: 0.0}, {"momentum"}),
    "sgd, first gradient": (DECAYED, {**SGD_H, "dampening": 0.4, "weight_decay": 0.05}, BEFORE, {"dampening"}),
    "adam": (
        AdamFlags(decay="coupled"),
        {**ADAM_H, "weight_decay": 0.05, "eps": 1.0},
        {"param": 0.1, "grad": 0.25, "exp_avg": 0.1, "exp_avg_sq": 0.01},
        set(),
    ),
    "adam, nothing but g": (
        AdamFlags(decay="coupled"),
        {**ADAM_H, "weight_decay": 0.05},
        {"param": 0.0, "grad": 0.25, "exp_avg": 0.0, "exp_avg_sq": 0.0},
        {"weight_decay", "eps"},
    ),
}


@pytest.mark.parametrize(("flags", "h", "before", "idle"), USED.values(), ids=USED)
def test_power_tells_which_hyperparameter_would_show(
    flags: Flags, h: dict[str, float], before: dict[str, float], idle: set[str]
) -> None:
    """A hyperparameter that the row uses has a finite smallest error that shows; one that it does not use has none."""
    rule = ADAM if "exp_avg" in before else SGD
    after = {name: value for name, value in before.items() if name != "grad"}
    more: dict[str, Any] = {"counts": {"step": np.full(ROWS, 2, np.int32)}}
    if rule is SGD:
        more = {"absent": {BUFFER: np.full(ROWS, idle == {"dampening"})}}
    with float64():
        right = compare(rule, flags, batch(before, after, h, **more)).exact
    result = judged(flags, batch(before, {name: np.asarray(right[name])[0] for name in after}, h, **more))
    assert set(result.smallest) == set(rule.hyperparameters_read(flags))
    for name, smallest in result.smallest.items():
        assert (float(smallest[0]) < 1e-3) == (name not in idle), name


@pytest.mark.parametrize("name", ["lr", "momentum"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_smallest_error_shows_and_half_of_it_does_not(name: str, sign: int) -> None:
    after = {"param": float(sgd(1.5, 0.25, -0.75)[0]), BUFFER: float(sgd(1.5, 0.25, -0.75)[1])}
    foretold = float(judged(MOMENTUM, batch(BEFORE, after, SGD_H)).smallest[name][0])
    for factor, shows in ((1.01, True), (0.5, False)):
        claimed = {**SGD_H, name: SGD_H[name] * (1 + sign * factor * foretold)}
        assert passes(judged(MOMENTUM, batch(BEFORE, after, claimed))) != shows


def test_one_compilation_serves_all_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If batches are many, each rule is compiled once for each set of flags, whatever the rows, tensors, dtype and options."""

    def compiled() -> int:
        programs: list[Any] = [exact_step, measure]
        return sum(program._cache_size() for program in programs)

    def record(name: str, dtype: torch.dtype, sizes: tuple[int, ...], steps: int, **options: Any) -> Report:
        parameters = [torch.nn.Parameter(torch.ones(size, dtype=dtype)) for size in sizes]
        optimizer = torch.optim.SGD(parameters, lr=0.1, nesterov=True, **options)
        with Recorder(optimizer, tmp_path / name, steps="all"):
            for step in range(steps):
                for p in parameters:
                    p.grad = torch.full_like(p, 0.5**step)
                optimizer.step()
        return replay(tmp_path / name)

    monkeypatch.setattr("crosscheck.checks.judging.judge._OFTEN", 0)
    first = record("first", torch.float32, (70,), 2, momentum=0.9)
    before = compiled()
    assert before
    several = record("several", torch.float32, (300_000, 7), 2, momentum=0.9)  # 2 * 1,172 rows: five batches
    assert several.elements > 2 * 4 * 512 * 256
    others = [
        record("float64", torch.float64, (300,), 3, momentum=0.5),
        record("bfloat16", torch.bfloat16, (1, 300, 2), 1, momentum=0.5, maximize=True),
        record("steps", torch.float32, (40,), 700, momentum=0.5),
    ]
    assert not [report for report in (first, several, *others) if report.verdict is Verdict.MISMATCH]
    assert compiled() == before
