"""The first line of a report blames what is wrong, and nothing else."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crosscheck import Claims, Finding, Recorder, Report, Verdict, replay
from crosscheck.report.verdict import CheckResult
from tests.crosscheck.recording import make_parameters, take_steps


def finding(check: str, *, step: int = 3, cause: str = "something is off") -> Finding:
    return Finding(step=step, tensor="weight", slot="param", cause=cause, check=check)


def report(*findings: Finding, rule: str = "adamw", reason: str = "") -> Report:
    return Report(
        verdict=Verdict.MISMATCH,
        reason=reason,
        optimizer="torch.optim.adamw.AdamW",
        rule=rule,
        profiles=("single on cpu",),
        own=(),
        max_eta=0.5,
        worst="no element",
        findings=findings,
        warnings=(),
        notes=(),
        not_tested=(),
        steps=8,
        elements=1100,
        tensors=2,
    )


def headline(report: Report) -> str:
    return str(report).splitlines()[0]


BLAMED = {
    "learning rate": "the learning rate does not follow its schedule",
    "clipping": "the gradient does not reach the optimizer as claimed",
    "average": "the moving average does not follow the parameters as claimed",
    "loss scale": "the loss scale does not move as its scaler would move it",
    "options": "the parameter groups do not have the options claimed",
    "gradient": "the gradient of backward is not that of the recorded batch",
    "continuity": "values do not carry over from step to step",
}


@pytest.mark.parametrize("check", BLAMED)
def test_what_is_around_the_optimizer_does_not_make_it_wrong(check: str) -> None:
    assert headline(report(finding(check))) == (
        f"mismatch: adamw (single on cpu) matches; {BLAMED[check]}: something is off; "
        "8 steps, 1,100 elements of 2 tensors, 1 finding"
    )


def test_each_check_is_blamed_once_by_its_first_finding() -> None:
    line = headline(
        report(finding("options"), finding("continuity", step=5, cause="moved"), finding("options", step=7, cause="no"))
    )
    assert "options claimed: something is off; values do not carry over from step to step: moved; 8 steps" in line
    assert ": no" not in line


def test_a_class_of_another_name_is_named() -> None:
    assert "mismatch: AdamW as adam (single on cpu) matches; values do not carry over" in headline(
        report(finding("continuity"), rule="adam")
    )


def test_an_optimizer_that_nothing_tested_is_not_called_a_match() -> None:
    line = headline(report(finding("options"), reason="no recorded step moved anything that could be checked"))
    assert "matches" not in line
    assert "is not tested, no recorded step moved anything" in line


def test_the_optimizer_s_own_mismatch_comes_first() -> None:
    line = headline(
        report(finding("clipping", step=1, cause="not clipped"), finding("optimizer", cause="beta1 is off"))
    )
    assert line == (
        "mismatch: AdamW (single on cpu) is not adamw; 8 steps, 1,100 elements of 2 tensors, 2 findings: beta1 is off "
        "(also a mismatch: clipping)"
    )


def test_a_match_says_in_its_first_line_how_many_claims_were_not_tested() -> None:
    matching = replace(
        report(),
        verdict=Verdict.MATCH,
        checks=dict.fromkeys(("optimizer", "clipping"), CheckResult.MATCH),
        claims_not_tested=("clip_norm = 1: nothing was clipped",),
    )
    assert headline(matching).endswith("; also checked: clipping; 1 claim not tested")
    assert "claim not tested by this record: clip_norm = 1: nothing was clipped" in str(matching).splitlines()


def test_of_a_whole_record(tmp_path: Path) -> None:
    parameters = make_parameters((3, 4), (5,))
    optimizer = torch.optim.AdamW(parameters, lr=0.1)
    with Recorder(
        optimizer, tmp_path / "trace", claims=Claims(schedule={"name": "exponential", "size": 1, "gamma": 0.9})
    ):
        take_steps(optimizer, parameters, range(1, 6))
    line = headline(replay(tmp_path / "trace"))
    assert line.startswith(
        "mismatch: adamw (single on cpu) matches; the learning rate does not follow its schedule: lr is not what the "
        "exponential schedule gives: it stays at 0.1, as if the schedule never stepped; 5 steps, "
    )


def test_a_finding_names_every_tensor_that_shows_it(tmp_path: Path) -> None:
    parameters = make_parameters((3, 4), (5,), (2,))
    optimizer = torch.optim.Adam(parameters, lr=0.1, weight_decay=0.1)
    with Recorder(optimizer, tmp_path / "trace", rule="adamw"):
        take_steps(optimizer, parameters, range(1, 4))
    found = replay(tmp_path / "trace")
    assert set(found.findings[0].tensors) == {"group0.0", "group0.1", "group0.2"}
    assert " of 3 tensors at 3 steps, 1 to 3" in str(found)


def test_one_is_no_plural() -> None:
    assert "; 1 step, 1 element of 1 tensor, 1 finding: " in headline(
        replace(report(finding("optimizer")), steps=1, elements=1, tensors=1)
    )
