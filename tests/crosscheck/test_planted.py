"""Every planted error is caught at its first step and in its slot.

The errors are recorded from the optimizers of `faulty`; `planted` is their library. An error that changes nothing is not
reported.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from crosscheck import Finding, Recorder, Report, Verdict, replay
from crosscheck.testing import gradient
from crosscheck.tolerance import FAIL, WARN
from tests.crosscheck.faulty import SCALE, FaultyAdam, FaultySGD
from tests.crosscheck.planted import (
    COARSE,
    COUPLED,
    DAMPENED,
    FINE,
    MOMENTUM,
    PLAIN,
    PLANTED,
    RIGHT,
    SILENT,
    STEPS,
    Planted,
    adam,
    adamw,
    sgd,
)

# `bias` has few enough elements to be recorded whole where others are sampled.
SHAPES = {"weight": (12, 25), "bias": (40,), "gain": (130,)}
REGIMES = {"weight": "typical", "bias": "typical", "gain": "tiny"}
RECORDINGS: dict[str, dict[str, Any]] = {
    "full": {"steps": "all", "coordinates": 1},
    "sampled": {"steps": [], "coordinates": 64},
}
WEAKEST = 100.0
"""In float32 every error of the library has a larger eta at the first step that shows it."""
FLOAT64, BFLOAT16 = torch.float64, torch.bfloat16

# One worker takes both files, because they look at the same reports: see `sampled`.
pytestmark = pytest.mark.xdist_group("planted")


def run(planted: Planted, trace: Path, dtype: torch.dtype = torch.float32, **recording: Any) -> Report:
    """Record a few steps of the optimizer and replay them."""
    generator = torch.Generator().manual_seed(1)
    parameters = {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype))
        for name, shape in SHAPES.items()
    }
    lr = planted.options.get("lr", 0.1 if planted.rule == "sgd" else 0.01)
    groups: list[dict[str, Any]] = [
        {"params": [parameters["weight"]], "lr": lr},
        {"params": [parameters["bias"], parameters["gain"]], "lr": lr / 2},
    ]
    kind = FaultySGD if planted.rule == "sgd" else FaultyAdam
    optimizer = kind(groups, planted.fault, since=planted.since, only=planted.only, **planted.options)
    scale = SCALE if planted.options.get("scaled") else 1.0
    with Recorder(optimizer, trace, rule=planted.rule, named_parameters=parameters.items(), **recording):
        for step in range(STEPS):
            for number, (name, p) in enumerate(parameters.items()):
                p.grad = gradient(REGIMES[name], p.numel(), dtype, 10 * step + number).view(p.shape) * scale
            optimizer.step()
            for group in optimizer.param_groups:
                group["lr"] *= 0.8 if planted.schedule else 1.0
    return replay(trace)


_REPORTS: dict[str, Report] = {}


def sampled(planted: Planted, trace: Path, dtype: torch.dtype = torch.float32) -> Report:
    """Return the report of `run` with the sampled recording.

    Each is made once in a process, because the tests of the causes look at the same reports.
    """
    name = f"{planted!r} {dtype}"
    if name not in _REPORTS:
        _REPORTS[name] = run(planted, trace, dtype, **RECORDINGS["sampled"])
    return _REPORTS[name]


def check(report: Report, planted: Planted) -> None:
    assert report.verdict is Verdict.MISMATCH, str(report)
    first = report.findings[0]
    assert (first.step, first.slot) == (planted.step, planted.slot), str(report)
    assert planted.tensor in (None, first.tensor), str(report)
    assert not first.eta <= FAIL
    for finding in report.findings:
        if " is not what " in finding.cause:  # otherwise no formula made the expected number
            check_written_out(finding)
    if planted.slot == "param":  # the state is then correct, also at later steps
        assert {finding.slot for finding in report.findings} == {"param"}, str(report)


def check_written_out(finding: Finding) -> None:
    """The element of a finding is written out, and the mistake that is named makes of it what was recorded."""
    written = finding.arithmetic
    assert written is not None
    assert written.recorded[finding.slot] == finding.recorded
    assert written.expected[finding.slot] == pytest.approx(finding.expected, rel=1e-12)
    assert written.under_cause.keys() in (set(), written.expected.keys())
    assert bool(written.cause) == bool(written.under_cause)
    assert written.cause in finding.cause
    if written.cause:
        right, mistaken = (made[finding.slot] for made in (written.expected, written.under_cause))
        assert abs(written.recorded[finding.slot] - mistaken) < 0.5 * abs(written.recorded[finding.slot] - right)
    assert {"grad", *written.before} <= {*written.read, *written.recorded}


@pytest.mark.parametrize(
    ("planted", "recording"), [*((p, "sampled") for p in PLANTED), *((p, "full") for p in PLANTED[::9])], ids=str
)
def test_an_error_is_caught_where_it_begins(planted: Planted, recording: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    report = sampled(planted, trace) if recording == "sampled" else run(planted, trace, **RECORDINGS[recording])
    check(report, planted)
    assert report.findings[0].eta > WEAKEST


@pytest.mark.parametrize("planted", FINE, ids=str)
def test_float64_shows_finer_errors(planted: Planted, tmp_path: Path) -> None:
    check(sampled(planted, tmp_path / "trace", FLOAT64), planted)


@pytest.mark.parametrize("planted", COARSE, ids=str)
def test_bfloat16_shows_coarse_errors(planted: Planted, tmp_path: Path) -> None:
    check(sampled(planted, tmp_path / "trace", BFLOAT16), planted)


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT64, BFLOAT16], ids=str)
@pytest.mark.parametrize("right", RIGHT, ids=lambda right: f"{right.rule} {dict(right.options)}")
def test_without_an_error_all_is_well(right: Planted, dtype: torch.dtype, tmp_path: Path) -> None:
    report = run(right, tmp_path / "trace", dtype, **RECORDINGS["full"])
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.max_eta <= WARN
    assert not report.warnings


@pytest.mark.parametrize("planted", SILENT, ids=lambda planted: f"{planted} {dict(planted.options)}")
def test_an_error_that_changes_nothing_stays_silent(planted: Planted, tmp_path: Path) -> None:
    report = run(planted, tmp_path / "trace", **RECORDINGS["sampled"])
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.max_eta <= WARN


@pytest.mark.parametrize("rule", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("recording", RECORDINGS)
def test_one_flipped_bit_is_named_by_its_position(rule: str, recording: str, tmp_path: Path) -> None:
    planted = Planted(rule, "bit flip", {}, 5, since=5, only=1)
    report = run(planted, tmp_path / "trace", **RECORDINGS[recording])
    (finding,) = report.findings
    assert (finding.step, finding.last_step, finding.tensor, finding.index) == (5, 5, "bias", (7,))
    assert (finding.slot, finding.elements, finding.steps) == ("param", 1, 1)
    assert finding.recorded is not None
    assert finding.expected is not None
    assert abs(finding.recorded - finding.expected) / abs(finding.expected) == pytest.approx(2.0**-11, rel=0.5)


@pytest.mark.parametrize(
    ("planted", "dtype", "hyperparameter"),
    [
        (adamw("decay missing", {"weight_decay": 1e-2, "lr": 1e-4}), torch.float32, "weight_decay"),
        (adamw("decay missing", COUPLED), BFLOAT16, "weight_decay"),
        (sgd("decay missing", PLAIN), BFLOAT16, "weight_decay"),
    ],
    ids=lambda value: str(value),
)
def test_what_a_record_cannot_show_it_does_not_claim(
    planted: Planted, dtype: torch.dtype, hyperparameter: str, tmp_path: Path
) -> None:
    """What is missing is either found, or its hyperparameter is listed as not tested."""
    report = run(planted, tmp_path / "trace", dtype, **RECORDINGS["sampled"])
    listed = any(name.startswith(hyperparameter) for name in report.not_tested)
    assert report.verdict is Verdict.MISMATCH or listed, str(report)


def test_an_error_that_is_not_found_is_smaller_than_what_the_report_says_it_would_have_found(tmp_path: Path) -> None:
    """beta1 is 0.9 and 1 % off, so 1 - beta1 is 9 % off. In bfloat16 few elements show that, or none."""
    report = run(adam("beta1 1 % off", {}), tmp_path / "trace", BFLOAT16, **RECORDINGS["sampled"])
    if report.verdict is not Verdict.MISMATCH:
        assert all(power["beta1"].smallest > 0.09 for power in report.power.values()), str(report)


def test_a_state_in_another_format_than_its_parameter_is_a_profile(tmp_path: Path) -> None:
    """A buffer of bfloat16 beside parameters of float32 is no mistake of the step, and the report tells of it."""
    report = run(sgd("state in bfloat16", MOMENTUM), tmp_path / "trace", **RECORDINGS["sampled"])
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.profiles == ("single on cpu, state in bfloat16",)


def test_a_buffer_of_zeros_from_before_the_first_step_is_not_torch_s(tmp_path: Path) -> None:
    """torch starts the buffer with the whole gradient. A buffer of zeros would take (1 - dampening) of it."""
    planted = sgd("buffer allocated beforehand", DAMPENED, 1, "momentum_buffer")
    check(run(planted, tmp_path / "trace", **RECORDINGS["sampled"]), planted)
