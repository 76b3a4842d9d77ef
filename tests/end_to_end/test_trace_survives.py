"""However a run was killed, its trace has every step up to the checkpoint from which it continues."""

import signal
from functools import partial
from pathlib import Path

from crosscheck import Verdict, replay
from tests.end_to_end.faults import flip, killed_after
from tests.support import QUICKSTART, SMALL, train, train_well

HELD = "its 10 tensors and their slots were held, bit for bit, against what"
RECORDED = (*SMALL, "--crosscheck.record", "--crosscheck.gradient_steps=[]", "--crosscheck.replay=false")


def test_no_step_is_missing_after_kills_and_a_fallback(tmp_path: Path) -> None:
    """The run is killed after steps 8 and 14, with a checkpoint after every third step and after each epoch of 10.

    The checkpoint after step 12 is damaged, so the run continues after step 10 and takes steps 11 and 12 again.
    """
    folder = tmp_path / "run"
    options = (*RECORDED, "--training.ema=0.9", "--checkpoint.every_steps=3")
    for step in (8, 14):
        [result] = train([QUICKSTART, *options, "--output.dir", folder], plant=partial(killed_after, step))
        assert result.code == -signal.SIGKILL
    flip(folder / "checkpoints" / "step-00000012" / "model.safetensors")
    resumed = train_well(folder, *options)
    straight = train_well(tmp_path / "straight", *options)
    assert resumed["resumed_from"] == str(folder / "checkpoints" / "step-00000010")
    assert resumed["weights_sha256"] == straight["weights_sha256"]

    report = replay(folder)
    assert (report.verdict, report.steps, report.warnings) == (Verdict.MATCH, 22, ())
    assert [note for note in report.notes if "resumed here" in note] == [
        f"a run resumed here, at step 7, recorded segment-0002; {HELD} step 6 left",
        f"a run resumed here, at step 11, recorded segment-0003; {HELD} step 10 left; "
        "steps 11 to 12 (2) recorded before as well, and judged both times",
    ]
    assert {check for check, found in report.checks.items() if found == "match"} == {
        "optimizer", "continuity", "clipping", "average", "learning rate", "options",
    }  # fmt: skip
