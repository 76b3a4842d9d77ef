"""Writes a report as JUnit XML, which Jenkins, GitLab and others show.

It has a test for each tensor and slot, and one for each check around them.
"""

import re
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree

from crosscheck.report import check_names
from crosscheck.report.advice import RECORD
from crosscheck.report.finding import Finding
from crosscheck.report.report import Report
from crosscheck.report.verdict import CheckResult, Verdict
from crosscheck.text import one_line
from crosscheck.tolerance import FAIL

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, not even escaped."""
_SLOT_CHECKS = (check_names.OPTIMIZER, check_names.CLIPPING, check_names.AVERAGE)
"""Checks whose findings are about a slot of a tensor."""


def to_junit(report: Report) -> str:
    """Return the report as one test suite. What is wrong is a failure, what was not recorded is skipped, and a record that proves
    nothing is an error.
    """
    cases = [*_cases_of_slots(report), *_cases_of_checks(report)]
    if report.verdict is Verdict.VACUOUS:
        cases.append(_case(_class(report), "verdict", "error", f"the record proves nothing: {report.reason}"))
    counts = {kind: str(sum(case.find(tag) is not None for case in cases)) for kind, tag in _COUNTED.items()}
    suites = ElementTree.Element("testsuites", {"name": "twinstep cross-check"})
    named = {"name": _clean(_class(report)), "tests": str(len(cases)), **counts, "time": "0"}
    suite = ElementTree.SubElement(suites, "testsuite", named)
    suite.extend(cases)
    ElementTree.SubElement(suite, "system-out").text = _clean(str(report))
    ElementTree.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(suites, encoding="unicode")}\n'


_COUNTED: Mapping[str, str] = {"failures": "failure", "errors": "error", "skipped": "skipped"}


def _cases_of_slots(report: Report) -> Iterator[ElementTree.Element]:
    """Yield a test for each slot of each tensor: of those that were judged, and of those that a finding is about."""
    largest = report.survey.largest if report.survey else {}
    found: dict[tuple[str, str], list[Finding]] = {}
    for finding in report.findings:
        if finding.check in _SLOT_CHECKS:
            for tensor in finding.tensors:
                found.setdefault((tensor, finding.slot), []).append(finding)
    judged = [(tensor, slot) for tensor, slots in largest.items() for slot in slots]
    for tensor, slot in dict.fromkeys([*found, *judged]):
        eta = largest.get(tensor, {}).get(slot)
        findings = found.get((tensor, slot), [])
        said = "\n".join(map(_in_words, findings)) or (
            f"its largest eta is {eta}, and the limit is {FAIL:g}" if eta is not None and eta > FAIL else ""
        )
        yield _case(_class(report), f"{tensor}.{slot}", "failure" if said else "", said)
    left_out = report.survey.num_tensors - len(largest) if report.survey else 0
    if left_out > 0:
        yield _case(_class(report), f"the other {left_out:,} tensors, which are closer to the formula", "", "")


def _cases_of_checks(report: Report) -> Iterator[ElementTree.Element]:
    """Yield a test for each check; that of the optimizer itself only where its tensors do not say it all."""
    for name, result in report.checks.items():
        if name == check_names.OPTIMIZER and result is CheckResult.MATCH:
            continue
        findings = [finding for finding in report.findings if finding.check == name]
        how = f"; to record it, {RECORD[name]}" if name in RECORD else ""
        kind = "failure" if result is CheckResult.MISMATCH else "" if result.is_answer else "skipped"
        said = "\n".join(map(_in_words, findings)) if kind == "failure" else f"{result}{how}"
        yield _case(f"{_class(report)}.checks", name, kind, said)


def _class(report: Report) -> str:
    return f"{report.optimizer}/{report.rule}"


def _case(of: str, name: str, kind: str, said: str) -> ElementTree.Element:
    """Return a test case. `kind`: the element that says what became of it; empty for one that passed."""
    case = ElementTree.Element("testcase", {"classname": _clean(of), "name": _clean(name), "time": "0"})
    if kind:
        first, *_ = said.splitlines() or [""]
        told = ElementTree.SubElement(case, kind, {"message": _clean(first)})
        if kind != "skipped":
            told.set("type", kind)
            told.text = _clean(said)
    return case


def _in_words(finding: Finding) -> str:
    numbers = f" ({finding.numbers})" if finding.numbers else ""
    return one_line(f"step {finding.step}, {finding.place}, {finding.slot}: {finding.cause}{numbers}")


def _clean(text: str) -> str:
    """Return the text with what XML cannot hold escaped as Python would."""
    return _NO_XML.sub(lambda found: repr(found[0])[1:-1], text)
