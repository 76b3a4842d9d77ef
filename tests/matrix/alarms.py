"""What a replay must say of a correct run."""

from pathlib import Path

from crosscheck import Report, Verdict, replay
from tests.matrix.cells import Cell


def replay_without_alarm(trace: Path, cell: Cell, steps: int) -> Report:
    """Everything that was recorded matches, and clipping and averaging could have been seen to be wrong."""
    report = replay(trace)
    assert report.verdict is Verdict.MATCH, str(report)
    assert not report.warnings, report.warnings
    assert "mismatch" not in report.checks.values(), report.checks
    assert {report.checks[name] for name in ("optimizer", "gradient", "average", "options")} == {"match"}
    assert not {"lr", "clip_norm", "decay"} & set(report.not_tested), report.not_tested
    assert report.profiles == (f"{cell.kernels} on cpu",)
    assert (report.steps, report.skipped) == (steps, len(cell.overflows))
    return report
