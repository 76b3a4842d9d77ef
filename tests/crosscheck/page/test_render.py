"""The page of a report holds what it says, as text and nothing else, and asks no network for anything."""

import base64
import hashlib
import math
import re
from dataclasses import replace
from itertools import pairwise

import pytest

from crosscheck import Report
from crosscheck.page.render import render
from crosscheck.report.survey import COLUMNS, TENSORS_DRAWN, Survey
from tests.crosscheck.page.reports import (
    ALL,
    HOSTILE,
    MARKUP,
    hostile,
    large,
    matching,
    mismatching,
    parted,
    survey,
    vacuous,
)
from tests.markup import Elements


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: render(make(), name) for name, make in ALL.items()}


@pytest.mark.parametrize("name", ALL)
def test_nothing_runs_and_nothing_is_fetched(pages: dict[str, str], name: str) -> None:
    elements = Elements(pages[name])
    assert not {tag for tag, _ in elements.found} & {"script", "img", "link", "iframe", "object", "base", "form"}
    assert not [
        a for _, attributes in elements.found for a in attributes if a.startswith("on") or a in ("style", "src")
    ]
    addresses = [a["href"] for _, a in elements.found if "href" in a]
    assert all(address is not None and address.startswith("#") for address in addresses)
    identifiers = {a.get("id") for _, a in elements.found}
    assert {str(address)[1:] for address in addresses} <= identifiers
    [policy] = [a["content"] for a in elements.named("meta") if "http-equiv" in a]
    [style] = elements.texts["style"]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


@pytest.mark.parametrize("name", ALL)
def test_it_is_read_without_eyes(pages: dict[str, str], name: str) -> None:
    """Each chart has words, each table a caption, each scrolled part a name; headings follow each other."""
    elements = Elements(pages[name])
    assert all(a.get("aria-hidden") or (a["role"] == "img" and a["aria-label"]) for a in elements.named("svg"))
    assert len(elements.named("caption")) == len(elements.named("table"))
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in elements.named("div") if a.get("class") == "scroll")
    levels = [int(tag[1]) for tag, _ in elements.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    assert elements.named("html") == [{"lang": "en"}]


def test_hostile_names_are_text(pages: dict[str, str]) -> None:
    page = pages["hostile"]
    assert MARKUP not in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    for shown in (r"a\u202eb", r"line\nfeed\x00\x1b[31m\x7f\ufffe", r"caf\udce9", "{{ 7 * 7 }}"):
        assert shown in page
    assert any(MARKUP in text for text in Elements(page).texts["code"])
    page.encode()


def text_of(page: str) -> str:
    """Return what a person reads, in one line."""
    return " ".join(" ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.DOTALL).split()).split())


def test_a_mismatch_is_written_out() -> None:
    read = text_of(render(mismatching(1e6), "runs/a/trace"))
    assert "AdamW (fused on cpu) is not adamw;" in read
    assert "Step 5, layer.0.weight[1, 2] , param : param is not what adamw makes" in read
    assert "param 1.75 1.5 1.25 1.4999999" in read
    assert "The mistake named: weight decay is missing." in read
    assert "grad = -0.5 lr = 0.1 g = grad param = param - lr * g" in read
    assert "Step 6, group 0 , lr : lr is that of the step before" in read


def test_a_cause_without_a_formula_has_no_number() -> None:
    report = mismatching(1e6)
    first = report.findings[0]
    assert first.arithmetic is not None
    rounded = replace(first, arithmetic=replace(first.arithmetic, cause="", under_cause={}))
    read = text_of(render(replace(report, findings=(rounded,)), ""))
    assert "param 1.75 1.5 1.25 grad" not in read
    assert "With the mistake named" not in read
    assert "No number is given for the cause" in read


def test_what_was_not_tested_is_plain() -> None:
    read = text_of(render(matching(), ""))
    assert "group 0 lr 1.0e-05 2.0e-06 2.0e-06 group 0 eps none none none" in read
    assert "What was not tested eps To test them, record more" in read
    assert "schedule step: the rate never changed" in read
    assert "clipping not recorded call recorder.after_backward()" in read
    assert "learning rate not tested give the recorder the scheduler" in read
    assert "lr 0.1 … 0.01 betas (0.9, 0.999) amsgrad True" in read
    assert "torch 2.14.1" in read
    assert "optax 0.2.8" in read


def test_a_record_of_nothing_has_a_page() -> None:
    read = text_of(render(vacuous(), ""))
    assert "no step was committed to the record" in read
    assert "Nothing was judged, so there is nothing to draw." in read
    assert "Nothing: no hyperparameter in use was tested." in read


@pytest.mark.parametrize("eta", [math.inf, 1e300, 9.0])
def test_what_is_wrong_shows_in_every_chart(eta: float) -> None:
    """Each chart marks a step that is infinite, huge, or just above the limit."""
    page = render(mismatching(eta), "")
    kind = 5 if math.isinf(eta) else 4
    assert f'<path class="e{kind}" d="M4 .5h1"/>' in page, "the map"
    words = {math.inf: "inf", 1e300: "1.0e+300", 9.0: "9.00"}[eta]
    assert f"<title>param, step 5: {words}</title>" in page
    assert f"layer.0.weight: largest eta {words} at step 5; above 8 in 1 of 6 columns, first at step 5" in page
    if math.isinf(eta):
        assert '<rect class="b5"' in page, "the histogram"


def test_large_records_stay_small() -> None:
    """The worst that 10,000 tensors and a million steps can do to the map is neighbours that all differ."""
    report = large()
    assert isinstance(report.survey, Survey)
    line = tuple((0.5, 1.5, 3.0, 6.0, 99.0, math.inf)[k % 6] for k in range(COLUMNS))
    lines = {f"{'layer.' * 20}{k}": line for k in range(TENSORS_DRAWN)}
    slots = {f"slot {k}": line for k in range(6)}
    page = render(replace(report, survey=replace(report.survey, tensors=lines, slots=slots)), "")
    assert len(page.encode()) < 1_000_000
    assert "of 10,000; the other 9,900 are not drawn" in text_of(page)


def test_many_findings_are_cut_and_counted() -> None:
    report = mismatching()
    page = render(replace(report, findings=report.findings * 100), "")
    assert "150 more are in the report" in page
    assert page.count("Written out:") == 6


def test_ranks_are_named() -> None:
    read = text_of(render(ALL["ranks"](), ""))
    assert "steps, on 2 ranks" in read
    assert "on rank 1" in read


def test_nothing_is_expected_of_ranks_that_differ() -> None:
    read = text_of(render(parted(), ""))
    assert "(1.55999994 here, 1.03999996 on the lowest rank)" in read
    assert "expected 1.0" not in read
    assert "eta inf" not in read


@pytest.mark.parametrize("report", [matching(), hostile()], ids=["match", "hostile"])
def test_the_title_may_be_hostile_too(report: Report) -> None:
    for title in HOSTILE:
        assert MARKUP not in render(report, title)


def test_one_column_is_drawn() -> None:
    page = render(replace(matching(), survey=survey(spans=1, tensors=1)), "")
    assert '<circle class="dot k0"' in page
