"""The questions that a replay puts to a trace: each is a file, or a folder where it takes several. No torch.

A new one needs its file and a line here. What they have in common is in `check.py`; `conclusion.py` makes the report of what they
found. The files here and the folders do not import each other in a circle: `judging/` and `ranks/` are below the files here, the
other folders above them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from crosscheck.report import check_names

if TYPE_CHECKING:
    from crosscheck.checks.check import Check

_KINDS = (
    (check_names.OPTIMIZER, "crosscheck.checks.optimizer", "Optimizer"),
    (check_names.CLIPPING, "crosscheck.checks.clipping", "Clipping"),
    (check_names.AVERAGE, "crosscheck.checks.average", "Average"),
    (check_names.LEARNING_RATE, "crosscheck.checks.learning_rate.learning_rate", "LearningRate"),
    (check_names.LOSS_SCALE, "crosscheck.checks.loss_scale.loss_scale", "LossScale"),
    (check_names.OPTIONS, "crosscheck.checks.options", "GroupOptions"),
    (check_names.GRADIENT, "crosscheck.checks.gradient", "Gradient"),
    (check_names.CONTINUITY, "crosscheck.checks.continuity.continuity", "Continuity"),
    (check_names.CONTINUITY, "crosscheck.checks.continuity.replaced_tensors", "ReplacedTensors"),
    (check_names.CONTINUITY, "crosscheck.checks.continuity.starts", "Starts"),
    (check_names.CONTINUITY, "crosscheck.checks.finite", "Finite"),
    (check_names.REPLICAS, "crosscheck.checks.replicas", "Replicas"),
)
"""What a report calls the check, and the class that makes it; in the order in which a replay asks them."""

CHECKS = tuple(dict.fromkeys(name for name, _, _ in _KINDS))
"""What a record can be held to: each step; the gradient's way from backward to the optimizer; the moving average of
the parameters; the schedule; the loss scale; the options of each group; the gradient itself, recomputed; that nothing
but the steps changes parameters and state; and, of a run of several ranks, that all ranks hold the same."""


def load_checks() -> tuple[tuple[str, "type[Check]"], ...]:
    """Import the classes of all checks, which takes JAX, and return each with the name that a report gives it."""
    return tuple((name, getattr(import_module(module), kind)) for name, module, kind in _KINDS)
