"""A trace that is written from the specification with NumPy and JSON alone is read as it was meant."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from crosscheck import TraceError, replay
from tests.crosscheck.trace.trace_files import Arrays, write_part

LR, MOMENTUM, DECAY = 0.25, 0.5, 0.125
"""These are powers of two, and the values below are small integers. SGD's steps are then exact, so eta is zero unless
something is wrong."""
SHAPE = (2, 3)
STEPS = (1, 2, 3, 4)
SKIPPED = 3


@dataclass
class HandMade:
    """Four steps of one tensor, of which the third is skipped.

    The values stand by row, and a test may change some of them before it writes the trace.
    """

    before: Any
    after: Any
    buffer: Any  # the buffer after each row; it did not exist before the first
    grad: Any

    @classmethod
    def right(cls, dtype: str = "float32") -> "HandMade":
        values = np.arange(6, dtype=dtype) - 2
        buffer: Any = None
        rows: list[tuple[Any, Any, Any, Any]] = []
        for step in STEPS:
            before = values
            grad = np.array([4, -8, 16, 2, -2, 8], dtype) * step
            if step == SKIPPED:
                grad = np.full(6, np.inf, dtype)
            else:
                decayed = grad + DECAY * values
                buffer = decayed if buffer is None else MOMENTUM * buffer + decayed
                values = values - LR * buffer
            rows.append((before, values, buffer, grad))
        return cls(*(np.array(column, dtype) for column in zip(*rows, strict=True)))

    def arrays(self) -> Arrays:
        stored = {
            "before": self.before[:1],
            "after": self.after,
            "momentum_buffer.after": self.buffer,
            "grad": self.grad,
        }
        return {f"0/0/{name}": np.ascontiguousarray(array) for name, array in stored.items()}

    def write(self, trace: Path, **changes: Any) -> Path:
        folder = trace / "segment-0001"
        folder.mkdir(parents=True)
        header = {
            "format": "twinstep-trace",
            "version": 1,
            "rule": "sgd",
            "optimizer": "my.own.Optimizer",
            "coordinates": 6,
            "versions": {"numpy": np.__version__},
        }
        (folder / "header.json").write_text(json.dumps(header))
        write_part(folder, 1, description() | changes, self.arrays())
        (folder / "end.json").write_text(json.dumps({"parts": 1, "last_step": STEPS[-1]}))
        return trace


def description() -> dict[str, Any]:
    options = {"lr": LR, "momentum": MOMENTUM, "dampening": 0.0, "weight_decay": DECAY, "nesterov": False}
    tensor = {"name": "w", "shape": SHAPE, "dtype": "float32", "device": "cpu", "group": 0, "implementation": "single"}
    slot = {"before": [], "absent_before": [0]}
    return {
        "tensors": [tensor],
        "steps": [
            {
                "step": step,
                "applied": step != SKIPPED,
                "grad_norm": "inf" if step == SKIPPED else 1.0,
                "options": [options if step == 1 else {}],
            }
            for step in STEPS
        ],
        "blocks": [
            {
                "full": False,
                "steps": STEPS,
                "tensors": [{"tensor": 0, "before": [0], "slots": {"momentum_buffer": slot}}],
            }
        ],
    }


def test_a_trace_written_by_hand_matches(tmp_path: Path) -> None:
    report = replay(HandMade.right().write(tmp_path / "trace"))
    assert (report.verdict, report.rule, report.optimizer) == ("match", "sgd", "my.own.Optimizer")
    assert (report.steps, report.skipped, report.tensors) == (4, 1, 1)
    assert report.elements == 3 * 6 * 2  # applied steps times elements times parameter and buffer
    assert report.max_eta == 0.0
    assert report.not_tested == ()
    assert report.notes == ("between steps all of the elements were held, bit for bit",)
    assert report.checks["continuity"] == "match"


@pytest.mark.parametrize(
    ("quantity", "row", "element", "index"),
    [("after", 0, 0, (0, 0)), ("after", 1, 5, (1, 2)), ("after", 3, 3, (1, 0)),
     ("buffer", 0, 1, (0, 1)), ("buffer", 3, 4, (1, 1))],
)  # fmt: skip
def test_one_number_changed_is_found_where_it_is(
    tmp_path: Path, quantity: str, row: int, element: int, index: tuple[int, ...]
) -> None:
    made = HandMade.right()
    values = getattr(made, quantity)
    right = float(values[row, element])
    values[row, element] += 0.25
    report = replay(made.write(tmp_path / "trace"))
    assert report.verdict == "mismatch"
    first = report.findings[0]
    slot = "param" if quantity == "after" else "momentum_buffer"
    assert (first.step, first.tensor, first.slot, first.index) == (STEPS[row], "w", slot, index)
    assert (first.recorded, first.expected) == (right + 0.25, right)
    assert first.eta > 1000
    assert slot in first.cause


def test_a_single_bit_is_rounding_and_not_a_mismatch(tmp_path: Path) -> None:
    made = HandMade.right()
    made.after[1, 2] = np.nextafter(made.after[1, 2], np.float32(np.inf))
    made.after[2, 2] = made.after[1, 2]
    report = replay(made.write(tmp_path / "trace"))
    assert report.verdict == "match"
    assert report.max_eta == 0.0  # storing the number explains it


@pytest.mark.parametrize("quantity", ["after", "buffer"])
def test_what_a_skipped_step_changes_is_found(tmp_path: Path, quantity: str) -> None:
    made = HandMade.right()
    row = STEPS.index(SKIPPED)
    values = getattr(made, quantity)
    before = float(values[row, 2])
    values[row, 2] += 1.0
    first = replay(made.write(tmp_path / "trace")).findings[0]
    assert (first.step, first.index) == (SKIPPED, (0, 2))
    assert (first.recorded, first.expected) == (before + 1.0, before)
    assert "on a skipped step" in first.cause


def wrong_option(name: str, value: Any) -> dict[str, Any]:
    steps = description()["steps"]
    steps[0]["options"][0] = steps[0]["options"][0] | {name: value}
    return {"steps": steps}


@pytest.mark.parametrize(
    ("name", "value", "step", "slot"),
    [
        ("lr", 0.2501, 1, "param"),
        ("momentum", 0.501, 2, "momentum_buffer"),
        ("weight_decay", 0.126, 1, "momentum_buffer"),
        ("dampening", 0.01, 2, "momentum_buffer"),
        ("nesterov", True, 1, "param"),
        ("maximize", True, 1, "momentum_buffer"),
        ("lr", "inf", 1, "param"),
        ("lr", "nan", 1, "param"),
    ],
)
def test_an_option_that_is_not_what_was_done_is_found(
    tmp_path: Path, name: str, value: Any, step: int, slot: str
) -> None:
    report = replay(HandMade.right().write(tmp_path / "trace", **wrong_option(name, value)))
    assert report.verdict == "mismatch"
    assert (report.findings[0].step, report.findings[0].slot) == (step, slot)


def test_options_hold_until_they_change(tmp_path: Path) -> None:
    """An option that is named at the last step changes there, and only there."""
    steps = description()["steps"]
    steps[3]["options"] = [{"lr": 2 * LR}]
    report = replay(HandMade.right().write(tmp_path / "trace", steps=steps))
    assert report.verdict == "mismatch"
    slots = {(finding.step, finding.slot) for finding in report.findings}
    assert (4, "param") in slots
    assert all(step == 4 for step, _ in slots)


def test_whole_tensors_alone_are_enough(tmp_path: Path) -> None:
    """Each step is in its own block, with the whole state before it."""
    made = HandMade.right()
    blocks: list[dict[str, Any]] = []
    arrays: Arrays = {}
    for row, step in enumerate(STEPS):
        arrays |= {f"{row}/0/before": made.before[[row]], f"{row}/0/after": made.after[[row]]}
        arrays |= {f"{row}/0/grad": made.grad[[row]], f"{row}/0/momentum_buffer.after": made.buffer[[row]]}
        slot: dict[str, Any] = {"before": [], "absent_before": [0]}
        if row:
            slot = {"before": [0]}
            arrays[f"{row}/0/momentum_buffer.before"] = made.buffer[[row - 1]]
        tensor = {"tensor": 0, "before": [0], "slots": {"momentum_buffer": slot}}
        blocks.append({"full": True, "steps": [step], "tensors": [tensor]})
    trace = made.write(tmp_path / "trace")
    (part,) = (trace / "segment-0001").glob("part-*")
    part.unlink()
    write_part(part.parent, 1, description() | {"blocks": blocks}, arrays)
    report = replay(trace)
    assert (report.verdict, report.max_eta, report.elements) == ("match", 0.0, 36)


@pytest.mark.parametrize("name", ["param", "grad", "coordinates", "", "a/b"])
def test_no_slot_goes_by_a_name_that_means_something_else(tmp_path: Path, name: str) -> None:
    """A slot named `param` would hide the parameter in a report."""
    changed = description()
    changed["blocks"][0]["tensors"][0]["slots"][name] = {"before": [0]}
    still = np.zeros((4, 6), np.float32)
    more = {f"0/0/{name}.before": still[:1], f"0/0/{name}.after": still}
    trace = HandMade.right().write(tmp_path / "trace")
    (part,) = (trace / "segment-0001").glob("part-*")
    part.unlink()
    write_part(part.parent, 1, changed, HandMade.right().arrays() | more)
    with pytest.raises(TraceError, match=f"no slot can be called '{name}'"):
        replay(trace)


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_other_formats_by_hand(tmp_path: Path, dtype: str) -> None:
    tensors = [description()["tensors"][0] | {"dtype": dtype}]
    report = replay(HandMade.right(dtype).write(tmp_path / "trace", tensors=tensors))
    assert report.verdict == "match"


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        ("float64", np.uint64(0x7FF0_0000_0000_0001)),
        ("float32", np.uint32(0x7F80_0001)),
        ("float16", np.uint16(0x7C01)),
        (ml_dtypes.bfloat16.__name__, np.uint16(0x7F81)),
    ],
)
def test_a_signalling_nan_is_a_number_like_others(tmp_path: Path, dtype: str, bits: Any) -> None:
    """Converting such a NaN sets the processor's invalid flag, and NumPy warns of that."""
    made = HandMade.right(dtype)
    made.after.view(bits.dtype)[-1, 2] = bits
    tensors = [description()["tensors"][0] | {"dtype": dtype}]
    (finding,) = replay(made.write(tmp_path / "trace", tensors=tensors)).findings
    assert (finding.step, finding.slot, finding.index) == (4, "param", (0, 2))
    assert finding.recorded is not None
    assert np.isnan(finding.recorded)
