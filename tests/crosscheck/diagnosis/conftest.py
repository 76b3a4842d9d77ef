"""What the tests of diagnosis share."""

from typing import Any

import pytest

from crosscheck.checks.judging import judge
from crosscheck.diagnosis.cause import Cause
from crosscheck.diagnosis.trial import Candidate
from crosscheck.rules.inputs import Inputs
from crosscheck.rules.rule import Flags, Rule


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> list[Candidate]:
    """Have replays keep in this list the rows that disagree, instead of looking for a cause."""
    kept: list[Candidate] = []

    def keep(rule: Rule[Any], flags: Flags, inputs: Inputs) -> list[Cause]:
        kept.append(Candidate("", rule, flags, inputs))
        return [Cause("kept", "kept", 0, 0.0)]

    monkeypatch.setattr(judge, "diagnose", keep)
    return kept
