"""A trace that lacks what was added to the format later is replayed as it was."""

import json
from pathlib import Path

import torch

from crosscheck import Recorder, replay
from tests.crosscheck.recording import make_parameters, take_steps
from tests.crosscheck.trace.trace_files import Arrays, Meta, rewrite


def as_before(meta: Meta, arrays: Arrays) -> None:
    """Take out of a part what the first traces did not have."""
    for block in meta["blocks"]:
        for tensor in block["tensors"]:
            for described in (tensor, *tensor["slots"].values()):
                described.pop("held", None)
    for name in [name for name in arrays if name.endswith("digest")]:
        del arrays[name]


def test_without_digests_and_without_the_state_at_the_start(tmp_path: Path) -> None:
    (weight,) = make_parameters((20, 30))
    optimizer = torch.optim.Adam([("weight", weight)], lr=0.01)
    with Recorder(optimizer, tmp_path, coordinates=6, steps=(1,)):
        take_steps(optimizer, [weight], range(1, 4))
        weight.data[7, 5] += 1
        take_steps(optimizer, [weight], range(4, 7))
    (finding,) = replay(tmp_path).findings
    assert "not sampled" in finding.cause
    rewrite(tmp_path, 1, as_before)
    header = tmp_path / "segment-0001" / "header.json"
    values = json.loads(header.read_text())
    del values["attached_with_state"]
    header.write_text(json.dumps(values))
    end = tmp_path / "segment-0001" / "end.json"
    end.write_text(json.dumps({"parts": 1, "last_step": 6}))
    report = replay(tmp_path)
    assert (report.verdict, report.checks["continuity"]) == ("match", "match"), str(report)
    assert "between steps 1 % of the elements were held, bit for bit" in report.notes
