"""Checks an optimizer against the formula that it claims, for test suites."""

from crosscheck.testing.check import check_optimizer, observe
from crosscheck.testing.gradients import REGIMES, gradient
from crosscheck.testing.situations import SITUATIONS

__all__ = ["REGIMES", "SITUATIONS", "check_optimizer", "gradient", "observe"]
