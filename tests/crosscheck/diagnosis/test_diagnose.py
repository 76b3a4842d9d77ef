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
from crosscheck.rules import RULES
from crosscheck.rules.adam import AdamFlags, Decay
from crosscheck.rules.sgd import SGDFlags
from tests.crosscheck.planted import COARSE, COUPLED, FINE, PLANTED, RIGHT, Planted, adamw
from tests.crosscheck.test_planted import BFLOAT16, FLOAT64, sampled

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
DECOUPLED = "weight decay is decoupled instead of coupled"
NO_NESTEROV = "Nesterov's look-ahead is missing"
FROM_ZERO = "dampening is applied to the first gradient, which starts the buffer"
SWAPPED = "betas are swapped"
EPS_IN_ROOT = "eps is inside the square root"
EPS_EARLY = "eps is added before the bias correction of the second moment"
NO_FIRST = "the bias correction of the first moment is missing"
NO_CORRECTIONS = "both bias corrections are missing"
AMSGRAD_FIRST = "AMSGrad corrects the bias before it takes the maximum (as Optax does)"

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
    "adam: decay after moments": DECOUPLED,
    "adam: maximize ignored": WRONG_SIGN,
    "adamw: lr one step late": LR_LATE,
    "adamw: decay of the other kind": "weight decay is coupled instead of decoupled",
    "adamw: decay missing": NO_DECAY,
    "adamw: decay missing, from step 4, one tensor": f"{NO_DECAY} or {DECAY_LR}",  # lr wd lr p is smaller than rounding
    "adamw: decay times lr": DECAY_LR,
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
    "sgd: decay twice": ("weight_decay", 0.05, 2.0),
    "sgd: maximize after decay": ("weight_decay", 0.05, -1.0),
    "sgd: maximize by negative lr": ("weight_decay", 0.05, -1.0),
    "adam: lr 0.1 % off": ("lr", 0.01, 1.001),
    "adam: beta1 0.1 % off": ("beta1", 0.9, 1.001),
    "adam: beta1 1 % off": ("beta1", 0.9, 1.01),
    "adam: beta2 0.1 % off": ("beta2", 0.999, 0.999),
    "adam: beta2 0.1 % off, from step 4": ("beta2", 0.999, 0.999),
    "adam: beta2 1 % off": ("beta2", 0.999, 0.99),
    "adam: eps 1 % off": ("eps", 1e-8, 1.01),
    "adam: decay twice": ("weight_decay", 0.05, 2.0),
    "adam: maximize after decay": ("weight_decay", 0.05, -1.0),
    "adamw: decay twice": ("weight_decay", 0.05, 2.0),
    "adamw: maximize flips decay": ("weight_decay", 0.05, -1.0),
}
OUTSIDE = frozenset(
    {
        "sgd: state rounded",
        "sgd: state in bfloat16",
        "sgd: parameter rounded",
        "sgd: bit flip, from step 5, one tensor",
        "sgd: stale gradient",
        "sgd: clipped by value",
        "sgd: clipped by norm",
        "sgd: nesterov twice",
        "sgd: dampening on the buffer",
        "sgd: dampening on the buffer, from step 4",
        "sgd: maximize by negative lr, with momentum",
        "adam: eps squared in the root",
        "adam: root of the correction missing",
        "adam: beta2 off in the correction",
        "adam: 1 - beta1 missing",
        "adam: 1 - beta2 missing",
        "adam: second moment of |g|",
        "adam: state rounded",
        "adam: second moment rounded",
        "adam: parameter rounded",
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
    """Return the causes that the report names for slots that do not follow from their inputs."""
    claim = re.compile(r"\w+ is not what \w+ makes of the recorded inputs: (.*)")
    return {found[1] for finding in report.findings if (found := claim.fullmatch(finding.cause))}


def first(report: Report) -> Finding:
    assert report.verdict is Verdict.MISMATCH
    return report.findings[0]


def sentences() -> set[str]:
    """Return every sentence of the catalogue of formulas."""
    sgd_flags = [SGDFlags(momentum, False, decay) for momentum in (False, True) for decay in (False, True)]
    sgd_flags += [SGDFlags(True, True, decay) for decay in (False, True)]
    adam_flags = [AdamFlags(amsgrad, decay) for amsgrad in (False, True) for decay in get_args(Decay)]
    every = [("sgd", flags) for flags in sgd_flags] + [("adam", flags) for flags in adam_flags]
    return {sentence for name, flags in every for sentence, _ in CATALOGUE[name].rules(RULES[name], flags)}


def test_every_planted_error_is_in_one_of_the_tables() -> None:
    tables = [*NAMED, *FITTED, *OUTSIDE, *COUNTED]
    assert sorted(tables) == sorted({label(planted) for planted in PLANTED})


def test_every_formula_of_the_catalogue_is_what_a_real_optimizer_does() -> None:
    assert len(sentences()) > 10
    assert sentences() <= set(NAMED.values())


@pytest.mark.parametrize("planted", of(*NAMED), ids=label)
def test_a_mistake_of_the_catalogue_is_named(planted: Planted, tmp_path: Path) -> None:
    report = sampled(planted, tmp_path / "trace")
    assert first(report).cause.endswith(f": {NAMED[label(planted)]}")
    assert reasons(report) == {NAMED[label(planted)]}  # and no other cause in any slot


def check_fit(cause: str, name: str, recorded: float, factor: float) -> None:
    """Check that the factor is exact to 1 % of its distance from 1, and that the value named is too."""
    said = re.fullmatch(rf"{name} acts as (\S+) where the record says (\S+) \((\S+) times\)", cause)
    assert said is not None, cause
    acts, on_record, times = map(float, said.groups())
    assert on_record == pytest.approx(recorded)
    assert times - 1 == pytest.approx(factor - 1, rel=0.01)
    assert acts == pytest.approx(recorded * times, rel=1e-4)


@pytest.mark.parametrize("planted", of(*FITTED), ids=label)
def test_a_wrong_number_is_fitted(planted: Planted, tmp_path: Path) -> None:
    report = sampled(planted, tmp_path / "trace")
    (reason,) = reasons(report)
    check_fit(reason, *FITTED[label(planted)])
    assert first(report).cause.endswith(reason)


@pytest.mark.parametrize("planted", of(*OUTSIDE), ids=label)
def test_what_is_outside_the_catalogue_gets_no_name(planted: Planted, tmp_path: Path) -> None:
    report = sampled(planted, tmp_path / "trace")
    assert first(report).cause.endswith(f": {UNEXPLAINED}")
    assert reasons(report) == {UNEXPLAINED}


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
        (Planted("adamw", "eps in the root", COUPLED), UNEXPLAINED),  # two mistakes at once
        (adamw("decay on new parameters", {"amsgrad": True, **COUPLED}), DECAY_NEW),
    ],
    ids=["adam taken for adamw", "that and eps in the root", "decay of amsgrad"],
)
def test_flags_and_mistakes_combined(planted: Planted, reason: str, tmp_path: Path) -> None:
    assert reasons(sampled(planted, tmp_path / "trace")) == {reason}


@pytest.mark.parametrize("planted", FINE, ids=str)
def test_in_float64_as_well(planted: Planted, tmp_path: Path) -> None:
    """Float64 distinguishes finer errors. The rounding of lr to float32 is not in the catalogue."""
    said = reasons(sampled(planted, tmp_path / "trace", FLOAT64))
    expected = UNEXPLAINED if planted.fault == "lr rounded" else NAMED.get(label(planted), UNEXPLAINED)
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
