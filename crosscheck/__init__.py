"""Twinstep's cross-check: record the steps of a torch optimizer, replay them through Optax, get a verdict.

    with Recorder(optimizer, "trace"): ...train...     # needs torch, not JAX
    report = replay("trace")                           # needs JAX and Optax, not torch
    check_optimizer(lambda params: torch.optim.Adam(params, lr=1e-3))     # needs both

Importing this package imports none of them.
"""

from typing import TYPE_CHECKING, Any

from crosscheck.errors import MathMismatch, TraceError, UnsupportedOptimizer

if TYPE_CHECKING:
    from crosscheck.recorder import Recorder
    from crosscheck.replayer import replay
    from crosscheck.report.finding import Finding
    from crosscheck.report.report import Report
    from crosscheck.report.verdict import Verdict
    from crosscheck.testing import check_optimizer
    from crosscheck.trace.format import Claims

__all__ = [
    "Claims",
    "Finding",
    "MathMismatch",
    "Recorder",
    "Report",
    "TraceError",
    "UnsupportedOptimizer",
    "Verdict",
    "check_optimizer",
    "replay",
]

_HOMES = {
    "Claims": "crosscheck.trace.format",
    "Recorder": "crosscheck.recorder",
    "replay": "crosscheck.replayer",
    "check_optimizer": "crosscheck.testing",
    "Finding": "crosscheck.report.finding",
    "Report": "crosscheck.report.report",
    "Verdict": "crosscheck.report.verdict",
}


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'crosscheck' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
