"""What a replay can come to: the verdict on a record, and the result of each check."""

from collections.abc import Iterable
from enum import StrEnum
from typing import Self


class _FromWorst(StrEnum):
    """Words in the order from the worst to the best."""

    @classmethod
    def worst(cls, words: Iterable[Self]) -> Self:
        """Return the worst of these words."""
        return min(words, key=list(cls).index)


class Verdict(_FromWorst):
    """What a replay ends with."""

    MISMATCH = "mismatch"
    VACUOUS = "vacuous"  # nothing moved, nothing recorded, or nothing that could have failed
    MATCH = "match"


EXIT_CODES = {Verdict.MATCH: 0, Verdict.MISMATCH: 1, Verdict.VACUOUS: 3}


class CheckResult(_FromWorst):
    """What a check came to."""

    MISMATCH = "mismatch"
    NOT_RECORDED = "not recorded"  # the record lacks what the check needs, and nothing was claimed
    NOT_TESTED = "not tested"  # the record lacks it although something was claimed
    MATCH = "match"

    @property
    def is_answer(self) -> bool:
        """Return whether the record held enough to answer the question."""
        return self in (CheckResult.MATCH, CheckResult.MISMATCH)
