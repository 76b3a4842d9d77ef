"""The results of the situations that `check_optimizer` tries, merged into one report."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from crosscheck.errors import UnsupportedOptimizer
from crosscheck.report.finding import Finding
from crosscheck.report.merging import merged, union
from crosscheck.report.report import Report
from crosscheck.report.verdict import CheckResult, Verdict
from crosscheck.testing.outcome import Outcome, findings_of
from crosscheck.testing.situation import OptimizerRaised, Situation
from crosscheck.testing.situations import Vectors


class Answer(NamedTuple):
    """What one situation came to."""

    label: str
    situation: Situation
    outcome: Outcome
    requested: bool = False
    """Whether the caller named the situation. Then no match is told without it."""

    @property
    def came_to(self) -> str:
        """Return the verdict: of a mismatch with the tensors and the first step, of a vacuous record with the reason."""
        if isinstance(self.outcome, OptimizerRaised):
            return f"not tried, for the optimizer raised {self.outcome}"
        if isinstance(self.outcome, UnsupportedOptimizer):
            return f"not tried, for the recorder refuses it: {self.outcome}"
        if isinstance(self.outcome, Finding):
            return f"mismatch of {', '.join(self.outcome.tensors)}: {self.outcome.cause}"
        if self.outcome.verdict is Verdict.VACUOUS:
            return f"vacuous: {self.outcome.reason}"
        if self.outcome.verdict is Verdict.MATCH:
            return str(Verdict.MATCH)
        wrong = dict.fromkeys(tensor for finding in findings_of(self.outcome) for tensor in finding.tensors)
        right = [name for name in self.situation.parameters if name not in wrong]
        rest = f"; {', '.join(right)} match" if right else ""
        return f"mismatch of {', '.join(wrong)}, from step {findings_of(self.outcome)[0].step}{rest}"


def merged_answers(answers: Sequence[Answer]) -> Report:
    """Return one report of all. What it tells about hyperparameters is that of the first report."""
    outcomes = list({id(answer.outcome): answer.outcome for answer in answers}.values())  # several may share one report
    reports = [outcome for outcome in outcomes if isinstance(outcome, Report)]
    findings = _first_of_each(finding for outcome in outcomes for finding in findings_of(outcome))
    proves_nothing = _proves_nothing(answers)
    return merged(
        reports,
        verdict=Verdict.MISMATCH if findings else Verdict.VACUOUS if proves_nothing else Verdict.MATCH,
        reason=proves_nothing,
        findings=findings,
        warnings=union(report.warnings for report in reports),
        notes=(),
        not_tested=reports[0].not_tested,
        checks={
            check: CheckResult.MISMATCH if any(finding.check == check for finding in findings) else result
            for check, result in reports[0].checks.items()
        },
        claims_not_tested=reports[0].claims_not_tested,
        situations={answer.label: answer.came_to for answer in answers},
        steps=sum(report.steps for report in reports),
        skipped=sum(report.skipped for report in reports),
        ranks=1,
        tensors=sum(report.tensors for report in reports),
        tensors_not_tested=reports[0].tensors_not_tested,
    )


def _proves_nothing(answers: Sequence[Answer]) -> str:
    """Return why there is no match even without findings: the vectors prove nothing, or a situation that must match does not."""
    vectors = [it for a in answers if isinstance(it := a.outcome, Report) and isinstance(a.situation, Vectors)]
    if all(report.verdict is Verdict.VACUOUS for report in vectors):
        return vectors[0].reason
    for answer in answers:
        needed = answer.requested or isinstance(answer.outcome, UnsupportedOptimizer)
        if needed and answer.came_to != Verdict.MATCH and not findings_of(answer.outcome):
            return f"{answer.label}: {answer.came_to}"
    return ""


def _first_of_each(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return one finding for each slot and cause, the first, with the tensors and elements of all."""
    found: dict[tuple[str, str, str], Finding] = {}
    for finding in findings:
        key = (finding.check, finding.slot, finding.cause)
        first = found.get(key)
        if first is None:
            found[key] = finding
        else:
            found[key] = replace(
                first,
                elements=first.elements + finding.elements,
                tensors=tuple(dict.fromkeys((*first.tensors, *finding.tensors))),
                steps=max(first.steps, finding.steps),
                last_step=max(first.last_step, finding.last_step),
            )
    return tuple(found.values())
