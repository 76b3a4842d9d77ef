"""One report on a run of several ranks, from the reports on each of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

from crosscheck.report.report import NOT_RECORDED, NOT_TESTED, REPLICAS, Finding, Report, Verdict
from crosscheck.report.survey import joined

_VERDICTS = (Verdict.MISMATCH, Verdict.VACUOUS, Verdict.MATCH)  # the worst first, as in the next
_RESULTS = (str(Verdict.MISMATCH), NOT_RECORDED, NOT_TESTED, str(Verdict.MATCH))


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

    worst = max(each, key=lambda report: report.max_eta)
    verdict = next(verdict for verdict in _VERDICTS if verdict in {report.verdict for report in each})
    replicas = NOT_RECORDED if not compared else str(Verdict.MATCH if differs is None else Verdict.MISMATCH)
    findings = [*_found(reports), *([] if differs is None else [differs])]
    return replace(
        each[0],
        verdict=verdict if differs is None else Verdict.MISMATCH,
        reason="; ".join(said(lambda report: [report.reason] if report.reason else [])),
        profiles=_union(report.profiles for report in each),
        own=_union(report.own for report in each),
        max_eta=worst.max_eta,
        worst=worst.worst,
        findings=tuple(sorted(findings, key=lambda finding: finding.step)),
        warnings=said(lambda report: report.warnings),
        notes=(*said(lambda report: report.notes), *notes),
        not_tested=_union(report.not_tested for report in each),
        checks={name: _worst(report.checks[name] for report in each) for name in each[0].checks} | {REPLICAS: replicas},
        claims_not_tested=said(lambda report: report.claims_not_tested),
        eta={slot: max(report.eta.get(slot, 0.0) for report in each) for slot in _union(report.eta for report in each)},
        steps=max(report.steps for report in each),
        skipped=max(report.skipped for report in each),
        ranks=len(each),
        tensors=max(report.tensors for report in each),
        tensors_not_tested=max(report.tensors_not_tested for report in each),
        elements=sum(report.elements for report in each),
        out_of_range=sum(report.out_of_range for report in each),
        undetermined=sum(report.undetermined for report in each),
        survey=joined(report.survey for report in each),
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


def _union(names: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for each in names for name in each))


def _worst(results: Iterable[str]) -> str:
    found = set(results)
    return next(result for result in _RESULTS if result in found)
