"""Several reports become one by a rule for each field: on a run of several ranks, and of the situations of `check_optimizer`."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch

from crosscheck import Report, Verdict
from crosscheck.report.ranks import of_all_ranks
from crosscheck.report.verdict import CheckResult
from crosscheck.testing.answers import Answer, merged_answers
from crosscheck.testing.situations import Vectors
from tests.crosscheck.page.reports import matching

VECTORS = Vectors(torch.float32, steps=1, seed=0, size=1, regimes=("typical",))


def of_ranks(*reports: Report) -> Report:
    return of_all_ranks(dict(enumerate(reports)), None, compared=True, notes=())


def of_situations(*reports: Report) -> Report:
    return merged_answers([Answer(str(number), VECTORS, report) for number, report in enumerate(reports)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Longer(Report):
    """A report with a field that nothing merges."""

    forgotten: int = 0


@pytest.mark.parametrize("merge", [of_ranks, of_situations])
def test_a_field_without_a_rule_is_an_error(merge: Callable[..., Report], monkeypatch: pytest.MonkeyPatch) -> None:
    merge(matching(), matching())
    monkeypatch.setattr("crosscheck.report.merging.Report", Longer)
    with pytest.raises(TypeError, match=r"how several reports are merged in forgotten$"):
        merge(matching(), matching())


@pytest.mark.parametrize(("merge", "steps"), [(of_ranks, 7), (of_situations, 10)])
def test_each_field_by_its_rule(merge: Callable[..., Report], steps: int) -> None:
    one = replace(matching(), max_eta=1.0, worst="of one", eta={"param": 1.0}, steps=3, elements=10, own=("a", "b"))
    other = replace(
        matching(), max_eta=2.0, worst="of the other", eta={"grad": 2.0}, steps=7, elements=5, own=("b", "c")
    )
    both = merge(one, other)
    assert (both.max_eta, both.worst, both.eta) == (2.0, "of the other", {"param": 1.0, "grad": 2.0})
    assert (both.steps, both.elements, both.own) == (steps, 15, ("a", "b", "c"))


def test_the_worst_word_counts() -> None:
    assert Verdict.worst([Verdict.MATCH, Verdict.VACUOUS]) is Verdict.VACUOUS
    assert Verdict.worst([Verdict.MISMATCH, Verdict.VACUOUS]) is Verdict.MISMATCH
    assert CheckResult.worst([CheckResult.MATCH, CheckResult.NOT_RECORDED, CheckResult.NOT_TESTED]) == "not recorded"
