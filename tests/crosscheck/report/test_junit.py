"""Tests a report as JUnit XML, as Jenkins and GitLab read it."""

import math
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from crosscheck import Report
from crosscheck.report.check_names import REPLICAS
from crosscheck.report.junit import to_junit
from crosscheck.report.verdict import CheckResult
from tests.crosscheck.page.reports import ALL, MARKUP, hostile, large, matching, mismatching, parted, vacuous

SCHEMA: dict[str, tuple[set[str], set[str]]] = {
    "testsuites": ({"name", "time", "tests", "failures", "disabled", "errors"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname", "id", "package", "file"},
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "testcase": (
        {"name", "classname", "time", "file", "line"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    "failure": ({"message", "type"}, set()),
    "error": ({"message", "type"}, set()),
    "skipped": ({"message", "type"}, set()),
    "system-out": (set(), set()),
}
"""Of each element the attributes and the elements that it may have, in junit-10.xsd of the Jenkins plugin xUnit."""


def read(report: Report) -> ElementTree.Element:
    text = to_junit(report)
    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n')
    return ElementTree.fromstring(text.encode())  # noqa: S314 (our own text)


def cases(report: Report) -> dict[str, tuple[str, str]]:
    """Return what became of each test, with its message, by class and name."""
    found: dict[str, tuple[str, str]] = {}
    for case in read(report).iter("testcase"):
        results = [(each.tag, each.get("message", "")) for each in case]
        name = f"{case.get('classname')}: {case.get('name')}"
        assert name not in found
        [found[name]] = results or [("passed", "")]
    return found


@pytest.mark.parametrize("name", ALL)
def test_it_keeps_to_the_schema_and_counts_right(name: str) -> None:
    root = read(ALL[name]())
    for element in root.iter():
        attributes, children = SCHEMA[element.tag]
        assert set(element.attrib) <= attributes
        assert {child.tag for child in element} <= children
        assert len(element) <= 1 or element.tag != "testcase"
    [suite] = root
    for attribute, path in {
        "tests": "testcase",
        "failures": "*/failure",
        "errors": "*/error",
        "skipped": "*/skipped",
    }.items():
        assert suite.get(attribute) == str(len(suite.findall(path)))
    assert all(case.get("name") and case.get("classname") for case in suite.iter("testcase"))


def test_each_tensor_and_slot_is_a_test() -> None:
    of, around = "torch.optim.adamw.AdamW/adamw", "torch.optim.adamw.AdamW/adamw.checks"
    found = cases(matching())
    assert found == {
        **{f"{of}: layer.{k}.weight.{slot}": ("passed", "") for k in range(3) for slot in ("param", "exp_avg")},
        f"{around}: clipping": (
            "skipped",
            "not recorded; to record it, call recorder.after_backward() after the last backward of a step, and give the "
            "recorder clip_norm or clip_value",
        ),
        f"{around}: average": ("passed", ""),
        f"{around}: learning rate": (
            "skipped",
            "not tested; to record it, give the recorder the scheduler: Recorder(..., scheduler=scheduler)",
        ),
        f"{around}: options": ("passed", ""),
        f"{around}: continuity": ("passed", ""),
    }


def test_a_mismatch_fails_its_tensors_and_its_checks() -> None:
    found = cases(mismatching(1e6))
    failed = {name.partition(": ")[2]: said for name, (result, said) in found.items() if result == "failure"}
    assert set(failed) == {"layer.0.weight.param", "optimizer", "learning rate"}
    assert failed["layer.0.weight.param"] == (
        "step 5, layer.0.weight[1, 2], param: param is not what adamw makes of the recorded inputs: weight decay is missing "
        "(recorded 1.5, expected 1.25, eta 1e+06)"
    )
    assert failed["learning rate"] == "step 6, group 0, lr: lr is that of the step before"


def test_nothing_is_expected_of_ranks_that_differ() -> None:
    [said] = [
        said
        for name, (_, said) in cases(replace(parted(), checks={REPLICAS: CheckResult.MISMATCH})).items()
        if REPLICAS in name
    ]
    assert said.endswith("(1.55999994 here, 1.03999996 on the lowest rank)")


def test_every_tensor_of_a_finding_fails_also_one_that_nothing_else_is_known_of() -> None:
    report = mismatching()
    first = replace(report.findings[0], tensors=("layer.0.weight", "layer.2.weight", "unlisted"))
    found = cases(replace(report, findings=(first,)))
    failed = {name.partition(": ")[2] for name, (result, _) in found.items() if result == "failure"}
    assert {"layer.0.weight.param", "layer.2.weight.param", "unlisted.param"} <= failed


def test_a_vacuous_record_is_an_error_that_says_why() -> None:
    found = cases(vacuous())
    assert found["torch.optim.adamw.AdamW/adamw: verdict"] == (
        "error",
        "the record proves nothing: no step was committed to the record",
    )


def test_tensors_beyond_those_listed_are_one_test() -> None:
    assert any("the other 8,000 tensors" in name for name in cases(large()))


def test_what_xml_cannot_hold_is_escaped() -> None:
    text = to_junit(hostile())
    assert MARKUP not in text
    assert not {c for c in text if (ord(c) < 32 and c not in "\t\n\r") or c in "\ufffe\udce9"}
    said = ElementTree.fromstring(text.encode()).find("testsuite/system-out")  # noqa: S314
    assert said is not None
    assert all(shown in str(said.text) for shown in (r"\x00\x1b[31m", r"caf\udce9", MARKUP))


@pytest.mark.parametrize("number", [math.nan, -math.inf, None])
def test_numbers_that_are_none(number: Any) -> None:
    report = mismatching()
    read(replace(report, findings=(replace(report.findings[0], recorded=number, expected=number),)))
