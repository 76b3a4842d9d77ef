"""What the replay of a correct run must report."""

from functools import partial
from pathlib import Path

from torch.optim.lr_scheduler import OneCycleLR

from crosscheck import Report, Verdict, replay
from tests.matrix.cells import Cell
from tests.torch_schedules import torch_rates


def replay_without_alarm(trace: Path, cell: Cell, steps: int) -> Report:
    """Return the report, after checking that all that was recorded matches, without a warning.

    It also checks that errors of the rate, the clipping and the average would have shown.
    """
    report = replay(trace)
    assert report.verdict is Verdict.MATCH, str(report)
    assert not report.warnings, report.warnings
    assert "mismatch" not in report.checks.values(), report.checks
    assert {report.checks[name] for name in ("optimizer", "clipping", "average", "options")} == {"match"}
    assert not {"lr", "clip_norm", "decay"} & set(report.not_tested), report.not_tested
    assert report.profiles == (f"{cell.kernels} on cpu",)
    assert (report.steps, report.skipped) == (steps, len(cell.overflows))
    return report


def one_cycle(peak: float, updates: int) -> list[float]:
    """Return the learning rates of torch's own one-cycle schedule over a run of so many applied updates."""
    return torch_rates(partial(OneCycleLR, max_lr=peak, total_steps=updates, cycle_momentum=False), updates)
