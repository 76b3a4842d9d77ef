"""Compares two runs that must have ended alike to the last bit."""

from pathlib import Path

from crosscheck.trace.reader import open_trace
from tests.chaos import record
from tests.chaos.world import Violation
from tests.support import read_json

CLOCKS = dict.fromkeys(("seconds", "data_seconds"))
"""What a step took and how long it waited for its batch, which no two runs have in common."""
FACTS = ("weights_sha256", "test_accuracy", "test_loss", "train_loss", "steps", "applied_updates", "skipped_steps")


def same_end(disturbed: Path, undisturbed: Path) -> None:
    """Check that both runs ended with the same weights, checkpoints and metrics, and with a match. Raises Violation."""
    one, other = read_json(disturbed / "summary.json"), read_json(undisturbed / "summary.json")
    for fact in FACTS:
        if one[fact] != other[fact]:
            raise Violation(f"{fact} is {one[fact]}, undisturbed {other[fact]}")
    lines, expected_lines = record.steps(disturbed), record.steps(undisturbed)
    if len(lines) != len(expected_lines):
        raise Violation(f"metrics.jsonl has {len(lines)} steps, undisturbed {len(expected_lines)}")
    for line, expected in zip(lines, expected_lines, strict=True):
        if {**line, **CLOCKS} != {**expected, **CLOCKS}:
            raise Violation(f"metrics.jsonl at step {expected['step']}: {line}, undisturbed {expected}")
    newest, expected = (record.checkpoints(folder)[0].path for folder in (disturbed, undisturbed))
    if newest.name != expected.name:
        raise Violation(f"the last checkpoint is {newest.name}, undisturbed {expected.name}")
    for part in sorted(expected.glob("*.safetensors")):
        if part.read_bytes() != (newest / part.name).read_bytes():
            raise Violation(f"{part.name} of {newest.name} has other bytes than undisturbed")
    for folder in (disturbed, undisturbed):
        _replayed(folder)


def joins(folder: Path) -> int:
    """Return how many times the run was resumed, as the replay notes it."""
    return sum("resumed" in note for note in read_json(folder / "crosscheck.json")["notes"])


def recorded_steps(folder: Path) -> int:
    """Return how many different steps of the run were recorded."""
    segments = open_trace(folder / "trace")
    return len({row.step for segment in segments for part in segment.parts() for row in part.meta.steps})


def _replayed(folder: Path) -> None:
    """Check that the replay ended with a match, without a warning, and joined all segments. Raises Violation."""
    verdict = read_json(folder / "summary.json")["crosscheck"]["verdict"]
    if verdict != "match":
        raise Violation(f"the verdict of {folder} is {verdict}, not match")
    warnings = read_json(folder / "crosscheck.json")["warnings"]  # also warns of steps that were not recorded
    if warnings:
        raise Violation(f"the replay of {folder} warns: {warnings[0]}")
    segments = len(list((folder / "trace").iterdir()))
    if segments > 1 and joins(folder) == 0:
        raise Violation(f"the trace of {folder} has {segments} segments, but the replay notes no join")
