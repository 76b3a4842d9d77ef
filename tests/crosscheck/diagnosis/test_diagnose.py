"""A replay names every mistake that its catalogue knows, and no other.

The errors are those of `planted`, recorded from real optimizers. Each is named, or a number is fitted to it, or it lies
outside the catalogue. In the last case no mistake may be named, since a wrong name is worse than none.
"""

import re
from pathlib import Path
from typing import get_args

import pytest
import torch

from crosscheck import Finding, Report, Verdict
from crosscheck.diagnosis.catalogue import CATALOGUE
from crosscheck.rules.adam import AdamFlags, Decay
from crosscheck.rules.sgd import SGDFlags
from tests.crosscheck.planted import COARSE, COUPLED, FINE, PLANTED, RIGHT, Planted, adamw
from tests.crosscheck.test_planted import BFLOAT16, FLOAT64, sampled

# One worker takes both files, because they look at the same reports: see `sampled`.
pytestmark = pytest.mark.xdist_group("planted")

UNEXPLAINED = "no mistake of the catalogue explains it"
WRONG_SIGN = "the gradient is used with the wrong sign (maximize)"
TWICE = "the gradient is divided by the loss scale twice"
NOT_UNSCALED = "the gradient is not divided by the loss scale"
LR_INSIDE = "the learning rate is inside the momentum buffer"
LR_LATE = "lr is that of the step before"
NO_DECAY = "weight decay is missing"
DECAY_LR = "weight decay is multiplied by lr once too often"
DECAY_LATE = "weight decay is added after the momentum instead of to the gradient"
DECAY_NEW = "weight decay is taken from the new parameters"
DECAY_TWICE = "weight decay is applied twice (for example once for each of two dtypes)"
DECOUPLED = "weight decay is decoupled instead of coupled"
AFTER_STORING = "param is computed from the state after that was rounded to the format it is stored in"
NO_NESTEROV = "Nesterov's look-ahead is missing"
FROM_ZERO = "dampening is applied to the first gradient, which starts the buffer"
SWAPPED = "betas are swapped"
EPS_IN_ROOT = "eps is inside the square root"
EPS_EARLY = "eps is added before the bias correction of the second moment (as TensorFlow does)"
NO_FIRST = "the bias correction of the first moment is missing"
NO_CORRECTIONS = "both bias corrections are missing"
AMSGRAD_FIRST = "AMSGrad corrects the bias before it takes the maximum (as Optax does)"

# Of formulas that are planted in test_causes.py.
ELSEWHERE = frozenset(
    {
        "the momentum buffer is a negative velocity with the learning rate inside (as in Keras)",
        "weight decay subtracts a constant instead of a part of the parameter",
        "the parameter does not move (another tensor may have taken its place)",
    }
)
# The cause that is named for each planted error, by `label`. Where the record fits two causes, both are named.
NAMED: dict[str, str] = {
    "sgd: lr one step late": LR_LATE,
    "sgd: lr inside the buffer": LR_INSIDE,
    "sgd: buffer times lr": LR_INSIDE,
    "sgd: unscaled twice, scaled": TWICE,
    "sgd: not unscaled, scaled": NOT_UNSCALED,
    "sgd: nesterov missing": NO_NESTEROV,
    "sgd: nesterov missing, from step 4, one tensor": NO_NESTEROV,
    "sgd: nesterov with the old buffer": NO_NESTEROV,  # g + mu b is momentum alone
    "sgd: nesterov unasked": "Nesterov's look-ahead is there, though not asked for",
    "sgd: dampening missing": "dampening is without effect",
    "sgd: buffer from zero": FROM_ZERO,
    "sgd: decay missing": NO_DECAY,
    "sgd: decay decoupled": DECAY_LATE,  # for SGD this is the same
    "sgd: decay after momentum": DECAY_LATE,
    "sgd: decay on new parameters": DECAY_NEW,
    "sgd: decay times lr": DECAY_LR,
    "sgd: decay twice": DECAY_TWICE,
    "sgd: state rounded": "momentum_buffer is rounded to bfloat16",
    "sgd: parameter rounded": "param is rounded to bfloat16",
    "sgd: maximize ignored": WRONG_SIGN,
    "adam: lr one step late": LR_LATE,
    "adam: eps in the root": EPS_IN_ROOT,
    "adam: eps in the root, from step 4": EPS_IN_ROOT,
    "adam: eps before the correction": EPS_EARLY,
    "adam: eps missing": "eps is without effect",
    "adam: first correction missing": NO_FIRST,
    "adam: first correction missing, one tensor": NO_FIRST,
    "adam: second correction missing": "the bias correction of the second moment is missing",
    "adam: both corrections missing": NO_CORRECTIONS,
    "adam: betas swapped": SWAPPED,
    "adam: step one ahead": "bias corrections are one step ahead",
    "adam: step one behind": "bias corrections are one step behind",
    "adam: unscaled twice, scaled": TWICE,
    "adam: not unscaled, scaled": NOT_UNSCALED,
    "adam: amsgrad corrects first": AMSGRAD_FIRST,
    "adam: amsgrad unused": "AMSGrad's maximum is kept but not used",
    "adam: decay of the other kind": DECOUPLED,
    "adam: decay missing": NO_DECAY,
    "adam: decay times lr": DECAY_LR,
    "adam: decay twice": DECAY_TWICE,
    "adam: parameter rounded": "param is rounded to bfloat16",
    "adam: state rounded": "exp_avg is rounded to bfloat16",
    "adam: second moment rounded": "exp_avg_sq is rounded to bfloat16",
    "adam: decay after moments": DECOUPLED,
    "adam: maximize ignored": WRONG_SIGN,
    "adamw: lr one step late": LR_LATE,
    "adamw: decay of the other kind": "weight decay is coupled instead of decoupled",
    "adamw: decay missing": NO_DECAY,
    "adamw: decay missing, from step 4, one tensor": NO_DECAY,
    "adamw: decay times lr": DECAY_LR,
    "adamw: decay twice": DECAY_TWICE,
    "adamw: decay not times lr": "weight decay is not multiplied by lr",
    "adamw: decay on new parameters": DECAY_NEW,
    "adamw: maximize ignored": WRONG_SIGN,
}
# For each planted error the hyperparameter that seems to have another value, its recorded value, and the factor between them.
FITTED: dict[str, tuple[str, float, float]] = {
    "sgd: lr 0.1 % off": ("lr", 0.1, 1.001),
    "sgd: lr 0.1 % off, from step 4": ("lr", 0.1 * 0.8**3, 1.001),
    "sgd: lr 0.1 % off, one tensor": ("lr", 0.1, 1.001),
    "sgd: options of the first group": ("lr", 0.05, 2.0),
    "sgd: unscaled twice": ("lr", 0.1, 1 / 1024),  # without a recorded loss scale it looks like this
    "sgd: momentum 0.1 % off": ("momentum", 0.9, 1.001),
    "sgd: dampening on both": ("momentum", 0.9, 0.6),  # (1 - tau) mu b + (1 - tau) g
    "sgd: dampening is the momentum": ("dampening", 0.4, 0.9 / 0.4),
    "sgd: maximize after decay": ("weight_decay", 0.05, -1.0),
    "sgd: maximize by negative lr": ("weight_decay", 0.05, -1.0),
    "adam: lr 0.1 % off": ("lr", 0.01, 1.001),
    "adam: beta1 0.1 % off": ("beta1", 0.9, 1.001),
    "adam: beta1 1 % off": ("beta1", 0.9, 1.01),
    "adam: beta2 0.1 % off": ("beta2", 0.999, 0.999),
    "adam: beta2 0.1 % off, from step 4": ("beta2", 0.999, 0.999),
    "adam: beta2 1 % off": ("beta2", 0.999, 0.99),
    "adam: eps 1 % off": ("eps", 1e-8, 1.01),
    "adam: maximize after decay": ("weight_decay", 0.05, -1.0),
    "adamw: maximize flips decay": ("weight_decay", 0.05, -1.0),
}
# What is two mistakes at once, by the parts of the sentence.
PAIRED: dict[str, tuple[str, ...]] = {
    "sgd: dampening on the buffer": ("momentum acts as 0.54 ", "x 0.6000000", ", and dampening is without effect"),
    "sgd: dampening on the buffer, from step 4": ("momentum acts as 0.54 ", ", and dampening is without effect"),
    "sgd: maximize by negative lr, with momentum": (f"{WRONG_SIGN}, and lr acts as -0.1 ", "x -1.000000"),
}
OUTSIDE = frozenset(
    {
        "sgd: bit flip, from step 5, one tensor",
        "sgd: stale gradient",
        "sgd: clipped by value",
        "sgd: clipped by norm",
        "sgd: nesterov twice",
        "adam: eps squared in the root",
        "adam: root of the correction missing",
        "adam: beta2 off in the correction",
        "adam: 1 - beta1 missing",
        "adam: 1 - beta2 missing",
        "adam: second moment of |g|",
        "adam: bit flip, from step 5, one tensor",
        "adam: stale gradient",
        "adam: clipped by value",
        "adam: clipped by norm",
        "adam: unscaled twice",
        "adam: amsgrad keeps the last",
        "adam: amsgrad one step late",
    }
)
# Errors of the step count, which the count itself shows, with the cause that is named for the parameter.
COUNTED: dict[str, str | None] = {
    "adam: step counted twice": "bias corrections are one step ahead",
    "adam: step not counted": None,  # the count stays 1 in the record and in the formula, so the parameter agrees
    "adam: one counter for all": UNEXPLAINED,
}


def label(planted: Planted) -> str:
    """Return the name of a planted error, with what distinguishes it from others of that name."""
    scaled = ", scaled" if planted.options.get("scaled") else ""
    negative = planted.fault == "maximize by negative lr" and "momentum" in planted.options
    return f"{planted}{scaled}{', with momentum' if negative else ''}"


def of(*labels: object) -> list[Planted]:
    return [planted for planted in PLANTED if label(planted) in labels]


def reasons(report: Report) -> set[str]:
    """Return the causes that the report names for slots that do not follow from their inputs, without the shape of others."""
    claim = re.compile(r"\w+ is not what \w+ makes of the recorded inputs: ([^;]*)")
    return {found[1] for finding in report.findings if (found := claim.match(finding.cause))}


def first(report: Report) -> Finding:
    assert report.verdict is Verdict.MISMATCH
    return report.findings[0]


def sentences() -> set[str]:
    """Return every sentence of the catalogue of formulas."""
    sgd_flags = [SGDFlags(momentum, False, decay) for momentum in (False, True) for decay in (False, True)]
    sgd_flags += [SGDFlags(True, True, decay) for decay in (False, True)]
    adam_flags = [AdamFlags(amsgrad, decay) for amsgrad in (False, True) for decay in get_args(Decay)]
    every = [("sgd", flags) for flags in sgd_flags] + [("adam", flags) for flags in adam_flags]
    return {sentence for name, flags in every for sentence, _ in CATALOGUE[name].formulas(flags)}


def test_every_planted_error_is_in_one_of_the_tables() -> None:
    tables = [*NAMED, *FITTED, *PAIRED, *OUTSIDE, *COUNTED]
    assert sorted(tables) == sorted({label(planted) for planted in PLANTED})


def test_every_formula_of_the_catalogue_is_what_a_real_optimizer_does() -> None:
    assert len(sentences()) > 10
    assert sentences() <= {*NAMED.values(), *ELSEWHERE}


@pytest.mark.parametrize("planted", of(*NAMED), ids=label)
def test_a_mistake_of_the_catalogue_is_named(planted: Planted, tmp_path: Path) -> None:
    report = sampled(planted, tmp_path / "trace")
    assert first(report).cause.endswith(f": {NAMED[label(planted)]}")
    assert reasons(report) == {NAMED[label(planted)]}  # and no other cause in any slot


def check_fit(cause: str, name: str, recorded: float, factor: float) -> None:
    """Check that the true factor is within the error that is told, and the value named is exact to 1 % of its own."""
    number = r"(-?[\d.e-]+)"
    said = re.fullmatch(
        rf"{name} acts as {number} where the record says {number} \(consistent with (?:1 - )?{name} x {number} ± {number}\)",
        cause,
    )
    assert said is not None, cause
    acts, on_record, times, error = map(float, said.groups())
    assert on_record == pytest.approx(recorded)
    assert acts == pytest.approx(recorded * factor, rel=max(0.01 * abs(factor - 1), 2 * error))
    true = (1 - recorded * factor) / (1 - recorded) if name.startswith("beta") else factor
    assert abs(times - true) <= 1.5 * error  # the last digit told is rounded too


@pytest.mark.parametrize("planted", of(*FITTED), ids=label)
def test_a_wrong_number_is_fitted(planted: Planted, tmp_path: Path) -> None:
    report = sampled(planted, tmp_path / "trace")
    (reason,) = reasons(report)
    check_fit(reason, *FITTED[label(planted)])
    assert first(report).cause.endswith(reason)


@pytest.mark.parametrize("planted", of(*OUTSIDE), ids=label)
def test_what_is_outside_the_catalogue_gets_no_name(planted: Planted, tmp_path: Path) -> None:
    report = sampled(planted, tmp_path / "trace")
    assert f": {UNEXPLAINED}; it is in " in first(report).cause
    assert reasons(report) == {UNEXPLAINED}


@pytest.mark.parametrize("planted", of(*PAIRED), ids=label)
def test_two_mistakes_at_once_are_both_named(planted: Planted, tmp_path: Path) -> None:
    (reason,) = reasons(sampled(planted, tmp_path / "trace"))
    assert " or " not in reason
    for part in PAIRED[label(planted)]:
        assert part in reason


@pytest.mark.parametrize("planted", of(*COUNTED), ids=label)
def test_a_wrong_count_is_told_by_the_count(planted: Planted, tmp_path: Path) -> None:
    report = sampled(planted, tmp_path / "trace")
    assert re.fullmatch(r"step went from \d+ to \d+; every applied step adds 1", first(report).cause)
    reason = COUNTED[label(planted)]
    assert reasons(report) == ({reason} if reason else set())


@pytest.mark.parametrize(
    ("planted", "reason"),
    [
        (Planted("adamw", "", COUPLED), "weight decay is coupled instead of decoupled"),
        (
            Planted("adamw", "eps in the root", COUPLED),
            f"weight decay is coupled instead of decoupled, and {EPS_IN_ROOT}",
        ),
        (adamw("decay on new parameters", {"amsgrad": True, **COUPLED}), DECAY_NEW),
    ],
    ids=["adam taken for adamw", "that and eps in the root", "decay of amsgrad"],
)
def test_flags_and_mistakes_combined(planted: Planted, reason: str, tmp_path: Path) -> None:
    assert reasons(sampled(planted, tmp_path / "trace")) == {reason}


@pytest.mark.parametrize("planted", FINE, ids=str)
def test_in_float64_as_well(planted: Planted, tmp_path: Path) -> None:
    """Float64 distinguishes finer errors."""
    said = reasons(sampled(planted, tmp_path / "trace", FLOAT64))
    rounded = "lr is rounded to float32"
    expected = rounded if planted.fault == "lr rounded" else NAMED.get(label(planted), UNEXPLAINED)
    assert expected.split(" or ")[0] in {name for reason in said for name in reason.split(" or ")}


@pytest.mark.parametrize("planted", COARSE, ids=str)
def test_in_bfloat16_the_true_cause_is_among_those_named(planted: Planted, tmp_path: Path) -> None:
    """Such a coarse record may fit several causes. The true one must be among those named."""
    which = label(planted)
    report = sampled(planted, tmp_path / "trace", BFLOAT16)
    (said,) = reasons(report)
    if which in FITTED:
        check_fit(said, *FITTED[which])
    elif which == "sgd: dampening missing":  # this names a number, which is only as exact as the format
        assert re.match(r"dampening (is without effect|acts as \d\.\d+e-\d+ )", said)
    elif which in PAIRED:  # as of the numbers of a coarse record
        assert PAIRED[which][-1] in said
    else:
        assert (NAMED.get(which) or COUNTED.get(which) or UNEXPLAINED) in said.split(" or ")


@pytest.mark.parametrize("right", RIGHT, ids=lambda right: f"{right.rule} {dict(right.options)}")
@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT16], ids=str)
def test_of_a_correct_run_no_cause_is_named(right: Planted, dtype: torch.dtype, tmp_path: Path) -> None:
    report = sampled(right, tmp_path / "trace", dtype)
    assert report.verdict is Verdict.MATCH
    assert report.findings == ()
    known = {name for reason in (*NAMED.values(), UNEXPLAINED) for name in reason.split(" or ")} | sentences()
    assert not [name for name in known if name in str(report)]
    assert "acts as" not in str(report)
