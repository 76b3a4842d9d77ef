"""Two runs that must have ended alike to the last bit."""

from pathlib import Path

from crosscheck.trace.reader import open_trace
from tests.chaos import record
from tests.chaos.world import Violation
from tests.support import read_json

FACTS = ("weights_sha256", "test_accuracy", "test_loss", "train_loss", "steps", "applied_updates", "skipped_steps")


def same_end(disturbed: Path, undisturbed: Path) -> None:
    """Weights, checkpoints, metrics and the replay's verdict. Raises Violation."""
    one, other = read_json(disturbed / "summary.json"), read_json(undisturbed / "summary.json")
    for fact in FACTS:
        if one[fact] != other[fact]:
            raise Violation(f"{fact} is {one[fact]}, undisturbed {other[fact]}")
    lines, expected_lines = record.steps(disturbed), record.steps(undisturbed)
    if len(lines) != len(expected_lines):
        raise Violation(f"metrics.jsonl has {len(lines)} steps, undisturbed {len(expected_lines)}")
    for line, expected in zip(lines, expected_lines, strict=True):
        if line != expected:
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
    """How many resumed starts the replay went through."""
    return sum("resumed" in note for note in read_json(folder / "crosscheck.json")["notes"])


def recorded_steps(folder: Path) -> int:
    """How many different steps of the run are on record."""
    segments = open_trace(folder / "trace")
    return len({row.step for segment in segments for part in segment.parts() for row in part.meta.steps})


def _replayed(folder: Path) -> None:
    verdict = read_json(folder / "summary.json")["crosscheck"]["verdict"]
    if verdict != "match":
        raise Violation(f"the verdict of {folder} is {verdict}, not match")
    warnings = read_json(folder / "crosscheck.json")["warnings"]  # of steps that are not on record, too
    if warnings:
        raise Violation(f"the replay of {folder} warns: {warnings[0]}")
    segments = len(list((folder / "trace").iterdir()))
    if segments > 1 and joins(folder) == 0:
        raise Violation(f"the trace of {folder} has {segments} segments, but the replay notes no join")
