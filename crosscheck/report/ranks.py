"""Makes one report on a run of several ranks from the reports on each of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from crosscheck.report import check_names
from crosscheck.report.finding import Finding
from crosscheck.report.merging import merged, union
from crosscheck.report.report import Report
from crosscheck.report.verdict import CheckResult, Verdict


def of_all_ranks(
    reports: Mapping[int, Report], differs: Finding | None, *, compared: bool, notes: Iterable[str]
) -> Report:
    """Return one report: a match if the record of every rank matches and the ranks do not differ.

    Args:
        reports: By rank.
        differs: In what the ranks differ first.
        compared: Whether anything of them was compared.
        notes: On the comparison.
    """
    each = [reports[rank] for rank in sorted(reports)]

    def said(lines: Callable[[Report], Iterable[str]]) -> tuple[str, ...]:
        return tuple(_said({rank: lines(report) for rank, report in reports.items()}))

    same = CheckResult.MATCH if differs is None else CheckResult.MISMATCH
    checks = {name: CheckResult.worst(report.checks[name] for report in each) for name in each[0].checks}
    findings = [*_found(reports), *([] if differs is None else [differs])]
    return merged(
        each,
        verdict=Verdict.worst(report.verdict for report in each) if differs is None else Verdict.MISMATCH,
        reason="; ".join(said(lambda report: [report.reason] if report.reason else [])),
        findings=tuple(sorted(findings, key=lambda finding: finding.step)),
        warnings=said(lambda report: report.warnings),
        notes=(*said(lambda report: report.notes), *notes),
        not_tested=union(report.not_tested for report in each),
        checks=checks | {check_names.REPLICAS: same if compared else CheckResult.NOT_RECORDED},
        claims_not_tested=said(lambda report: report.claims_not_tested),
        situations={},
        steps=max(report.steps for report in each),
        skipped=max(report.skipped for report in each),
        ranks=len(each),
        tensors=max(report.tensors for report in each),
        tensors_not_tested=max(report.tensors_not_tested for report in each),
    )


def _found(reports: Mapping[int, Report]) -> Iterator[Finding]:
    """Yield the findings of all ranks; one that several ranks show is one finding."""
    known: dict[tuple[object, ...], Finding] = {}
    for rank, report in sorted(reports.items()):
        for found in report.findings:
            key = found.check, found.slot, found.step, found.tensor, found.cause
            same = known.get(key, found)
            known[key] = replace(same, ranks=(*same.ranks, rank))
    yield from known.values()


def _said(lines: Mapping[int, Iterable[str]]) -> Iterator[str]:
    """Yield the lines by rank, each once; one that not all ranks say tells who does."""
    who: dict[str, list[int]] = {}
    for rank, its in sorted(lines.items()):
        for line in its:
            who.setdefault(line, []).append(rank)
    for line, saying in who.items():
        yield line if len(saying) == len(lines) else f"rank {', '.join(map(str, saying))}: {line}"
