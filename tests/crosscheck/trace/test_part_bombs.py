"""Small parts that describe a lot: time and memory follow what is in the files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crosscheck import TraceError, replay
from tests.crosscheck.faulty import FaultySGD
from tests.crosscheck.trace.trace_files import Arrays, Meta, peak_of_a_replay, write_part

OPTIONS = FaultySGD.start


def write_trace(folder: Path, meta: Meta, arrays: Arrays) -> Path:
    """Write a trace of one part by hand."""
    segment = folder / "segment-0001"
    segment.mkdir(parents=True)
    header: Meta = {
        "format": "twinstep-trace",
        "version": 1,
        "rule": "sgd",
        "optimizer": "torch.optim.SGD",
        "versions": {},
    }
    (segment / "header.json").write_text(json.dumps(header))
    write_part(segment, 1, meta, arrays)
    return folder


def described(steps: int, tensors: int, elements: int, in_block: int, **options: Any) -> Meta:
    """Describe steps without gradients, of tensors of which so many are in the one block."""
    info = {"shape": [elements], "dtype": "float32", "device": "cpu", "group": 0, "implementation": "single"}
    numbers, rows = range(1, steps + 1), list(range(steps))
    entries = [{"tensor": tensor, "before": [0], "no_grad": rows} for tensor in range(in_block)]
    return {
        "tensors": [{"name": f"t{tensor}", **info} for tensor in range(tensors)],
        "steps": [{"step": k, "applied": True, "options": [{} if k > 1 else OPTIONS | options]} for k in numbers],
        "blocks": [{"full": False, "steps": list(numbers), "tensors": entries}],
    }


def still(steps: int, tensors: int, elements: int) -> Arrays:
    """The arrays of tensors that nothing moves."""
    return {
        f"0/{tensor}/{name}": np.zeros((rows, elements), np.float32)
        for tensor in range(tensors)
        for name, rows in (("before", 1), ("after", steps))
    }


@pytest.mark.timeout(120)
def test_rows_without_bytes_are_refused(tmp_path: Path) -> None:
    """Tensors without elements: a hundred kilobytes would be rows without end."""
    meta = described(1500, 60, 0, 60)
    for entry in meta["blocks"][0]["tensors"]:
        entry["no_grad"] = []
    arrays = still(1500, 60, 0) | {f"0/{tensor}/grad": np.zeros((1500, 0), np.float32) for tensor in range(60)}
    with pytest.raises(TraceError, match="90000 rows of tensors are described, and it has only"):
        replay(write_trace(tmp_path, meta, arrays))


@pytest.mark.timeout(120)
def test_more_steps_of_tensors_than_a_part_accounts_for_are_refused(tmp_path: Path) -> None:
    meta = described(4000, 2000, 1, 1)
    with pytest.raises(TraceError, match="4000 steps of 2000 tensors are too many for a part of"):
        replay(write_trace(tmp_path, meta, still(4000, 1, 1)))


@pytest.mark.timeout(120)
def test_options_that_each_step_takes_over_are_bounded(tmp_path: Path) -> None:
    """A step that changes one option has all the others as well."""
    meta = described(2000, 1, 1, 1, **{f"o{number}": number for number in range(3000)})
    for number, step in enumerate(meta["steps"][1:]):
        step["options"] = [{"lr": 0.1 + number}]
    with pytest.raises(TraceError, match="its steps have 6014000 options in all; at most 4194304 are read"):
        replay(write_trace(tmp_path, meta, still(2000, 1, 1)))


def test_a_description_larger_than_any_recorder_writes_is_refused(tmp_path: Path) -> None:
    meta = described(1, 1, 1, 1) | {"padding": " " * 2**25}
    with pytest.raises(TraceError, match="its description is larger than 25165824 bytes"):
        replay(write_trace(tmp_path, meta, still(1, 1, 1)))


def test_options_that_nobody_changes_cost_nothing(tmp_path: Path) -> None:
    meta = described(2000, 1, 1, 1, **{f"o{number}": number for number in range(3000)})
    assert replay(write_trace(tmp_path, meta, still(2000, 1, 1))).steps == 2000


def test_rows_in_which_a_slot_is_absent_take_no_memory(tmp_path: Path) -> None:
    """A part of 7 MB with 16 slots, each there in one row of 64: all of them whole would be 164 MB."""
    steps, elements = 64, 20_000
    meta, arrays = described(steps, 1, elements, 1), still(steps, 1, elements)
    rows = list(range(1, steps))
    slots = {f"slot{slot}": {"before": [0], "absent_before": rows, "absent_after": rows} for slot in range(16)}
    meta["blocks"][0]["tensors"][0]["slots"] = slots
    for slot in slots:
        arrays |= {f"0/0/{slot}.{moment}": np.ones((1, elements), np.float32) for moment in ("before", "after")}
    assert peak_of_a_replay(write_trace(tmp_path, meta, arrays)) < 60 * 2**20
