"""The results of the situations that `check_optimizer` tries, merged into one report."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from crosscheck.report.finding import Finding
from crosscheck.report.merging import merged, union
from crosscheck.report.report import Report
from crosscheck.report.verdict import CheckResult, Verdict
from crosscheck.testing.situations import Situation, Vectors


class Answer(NamedTuple):
    """The result of one situation."""

    label: str
    situation: Situation
    report: Report | str  # or what was raised

    @property
    def came_to(self) -> str:
        """Return the verdict: of a mismatch with the tensors and the first step, of a vacuous record with the reason."""
        if isinstance(self.report, str):
            return f"not tried, for the optimizer raised {self.report}"
        if self.report.verdict is Verdict.VACUOUS:
            return f"vacuous: {self.report.reason}"
        if self.report.verdict is Verdict.MATCH:
            return str(Verdict.MATCH)
        wrong = dict.fromkeys(tensor for finding in self.report.findings for tensor in finding.tensors)
        right = [name for name in self.situation.parameters if name not in wrong]
        rest = f"; {', '.join(right)} match" if right else ""
        return f"mismatch of {', '.join(wrong)}, from step {self.report.findings[0].step}{rest}"


def merged_answers(answers: Sequence[Answer]) -> Report:
    """Return one report of all. What it tells about hyperparameters is that of the first report."""
    reports = list({id(it): it for answer in answers if isinstance(it := answer.report, Report)}.values())
    vectors = [it for a in answers if isinstance(it := a.report, Report) and isinstance(a.situation, Vectors)]
    proves_nothing = vectors[0].reason if all(report.verdict is Verdict.VACUOUS for report in vectors) else ""
    findings = _first_of_each(finding for report in reports for finding in report.findings)
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
