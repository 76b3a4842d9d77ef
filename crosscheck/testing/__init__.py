"""For test suites: is this optimizer the one it claims to be?"""

from crosscheck.testing.check import check_optimizer, observe
from crosscheck.testing.gradients import REGIMES, gradient
from crosscheck.testing.situations import SITUATIONS

__all__ = ["REGIMES", "SITUATIONS", "check_optimizer", "gradient", "observe"]
