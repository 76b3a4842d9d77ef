"""Every promise that the chaos run checks is broken on purpose, and the check notices."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos import compare, invariants, record
from tests.chaos.world import Job, Process, Start, Violation, Word
from tests.processes import marked

LAST = 60


def a_run(folder: Path, last: int = LAST, saved: tuple[int, ...] = (20, 40, 60)) -> Path:
    """Make the folder of a complete and replayed run of `last` steps, with checkpoints of the steps `saved`."""
    folder.mkdir()
    lines = [{"kind": "step", "step": step, "loss": 1 / step} for step in range(1, last + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step in saved:
        checkpoint = folder / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_bytes(b"weights %d" % step)
        sha256 = hashlib.sha256(b"weights %d" % step).hexdigest()
        (checkpoint / "manifest.json").write_text(json.dumps({"files": {"model.safetensors": {"sha256": sha256}}}))
    facts = dict.fromkeys(compare.FACTS, "the same") | {"crosscheck": {"verdict": "match"}}
    (folder / "summary.json").write_text(json.dumps(facts))
    (folder / "status.json").write_text(json.dumps({"state": "done"}))
    (folder / "crosscheck.json").write_text(json.dumps({"notes": ["a run resumed here, at step 21"], "warnings": []}))
    for name in ("segment-0001", "segment-0002"):
        (folder / "trace" / name).mkdir(parents=True)
    return folder


def newest(folder: Path) -> record.Saved:
    return record.checkpoints(folder)[0]


def test_a_whole_run_breaks_no_promise(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    invariants.files_are_whole(folder, ())
    invariants.nothing_lost(folder, ())
    invariants.no_more_lost_than_the_interval(folder, ())
    compare.same_end(folder, a_run(tmp_path / "undisturbed"))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("summary.json", '{"steps": 1'),
        ("status.json", ""),
        ("metrics.jsonl", '{"kind": "step", "step": 1}\nhalf a li\n{"kind": "step", "step": 2}\n'),
        ("metrics.jsonl", '{"kind": "step", "step": 1}\n{"kind": "step", "step": 3}\n'),
        ("metrics.jsonl", '{"kind": "step", "step": 1}\n{"kind": "step", "step": 1}\n'),
        ("checkpoints/step-00000040/model.safetensors", "weights 41"),
        ("checkpoints/step-00000040/manifest.json", "{"),
    ],
)
def test_a_half_written_file(tmp_path: Path, file: str, text: str) -> None:
    folder = a_run(tmp_path / "run")
    (folder / file).write_text(text)
    with pytest.raises(Violation, match=file.removeprefix("checkpoints/").split("/")[0]):
        invariants.files_are_whole(folder, ())


def test_a_last_line_that_a_kill_cut_short_is_no_fault(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "st')
    invariants.files_are_whole(folder, ())
    assert record.last_step(folder) == LAST


def test_a_checkpoint_lost(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run", last=LAST + 5)
    invariants.no_more_lost_than_the_interval(folder, ())
    with pytest.raises(Violation, match=f"stopped on request after step {LAST + 5}, but .* of step {LAST}"):
        invariants.nothing_lost(folder, ())
    shutil.rmtree(newest(folder).path)
    with pytest.raises(Violation, match=f"step {LAST + 5} was reached, but .* of step 40"):
        invariants.no_more_lost_than_the_interval(folder, ())


def test_the_newest_checkpoint_is_not_one_that_a_fault_hit(tmp_path: Path) -> None:
    folder = a_run(tmp_path / "run")
    hit = newest(folder)
    (hit.path / "manifest.json").unlink()
    assert invariants.newest_valid(folder, {hit.inode}) == 40
    invariants.files_are_whole(folder, {hit.inode})
    # A run that reaches the step again renames its checkpoint so while it replaces it.
    hit.path.rename(hit.path.with_suffix(".old"))
    assert invariants.newest_valid(folder, {hit.inode}) == 40


def test_a_resume_from_an_older_checkpoint() -> None:
    said = (
        "checkpoint /run/checkpoints/step-00000060 skipped: damaged\ncontinuing from /run/checkpoints/step-00000040\n"
    )
    invariants.resumed_from(said, 40, ["step-00000060"], trained=True)
    with pytest.raises(Violation, match="continued from step 40, where the newest valid checkpoint is of step 60"):
        invariants.resumed_from(said, 60, [], trained=True)
    with pytest.raises(Violation, match="step-00000080 is damaged, but no line"):
        invariants.resumed_from(said, 40, ["step-00000060", "step-00000080"], trained=True)
    with pytest.raises(Violation, match="continued from step 0"):
        invariants.resumed_from("", 40, [], trained=True)
    invariants.resumed_from("", 40, [], trained=False)


def test_a_death_that_nobody_names() -> None:
    invariants.death_is_named("fault: rank 1 stopped answering, so the others gave up", {1})
    with pytest.raises(Violation, match="rank 1 died first, but the others say: fault: rank 0 stopped"):
        invariants.death_is_named("rank 1 is gone\nfault: rank 0 stopped answering", {1})


@pytest.mark.parametrize(
    "word",
    [
        Word("failed", 1, "a loss that is not finite", retry=False),
        Word("failed", 2, "a disk", retry=True),
        Word("done", 0, retry=False),
        Word(),
    ],
    ids=str,
)
def test_an_ending_that_is_not_right(word: Word) -> None:
    with pytest.raises(Violation):
        invariants.ended_as_it_may(word, {"failed 1", "failed 2", "stopped 75"})


@pytest.mark.parametrize(
    "word", [Word("failed", 1), Word("failed", 2, retry=False), Word("stopped", 75), Word()], ids=str
)
def test_an_ending_that_is_right(word: Word) -> None:
    invariants.ended_as_it_may(word, {"failed 1", "failed 2", "stopped 75", "no word"})


def test_an_orphan_is_found_though_its_parent_is_gone(tmp_path: Path) -> None:
    start = Start(Job(tmp_path / "run", tmp_path, (), nodes=2, ranks_per_node=1), "start-001")
    sleeps = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {'import time; time.sleep(60)'!r}], "
        "start_new_session=True)"
    )
    subprocess.run([sys.executable, "-c", sleeps], env={**os.environ, **start.environment(1)}, check=True)
    [orphan] = start.processes()
    assert (orphan.node, orphan.rank) == (1, None)
    with pytest.raises(Violation, match=f"still there after 3 s: {orphan.pid} on node 1"):
        invariants.gone(start.processes(), 3)
    assert marked(f"{tmp_path}:start-0015:") == []  # the mark of another start
    start.cut_power(0)
    assert start.processes() == [orphan]
    start.cut_power(1)
    assert start.processes() == []


def test_a_process_that_left_is_no_error() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    Process(gone.pid, (), {}).send(signal.SIGKILL)


@pytest.mark.parametrize("fact", compare.FACTS)
def test_a_fact_that_differs(tmp_path: Path, fact: str) -> None:
    one, other = a_run(tmp_path / "one"), a_run(tmp_path / "other")
    summary = json.loads((one / "summary.json").read_text())
    (one / "summary.json").write_text(json.dumps(summary | {fact: "another"}))
    with pytest.raises(Violation, match=f"{fact} is another, undisturbed the same"):
        compare.same_end(one, other)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("checkpoints/step-00000060/model.safetensors", "weights 61", "other bytes"),
        ("crosscheck.json", '{"notes": [], "warnings": []}', "notes no join"),
        ("crosscheck.json", '{"notes": [], "warnings": ["no segment holds step 4"]}', "no segment holds step 4"),
        ("metrics.jsonl", '{"kind": "step", "step": 1, "loss": 2.0}\n', "1 steps, undisturbed 60"),
    ],
)
def test_an_end_that_differs(tmp_path: Path, file: str, text: str, words: str) -> None:
    one, other = a_run(tmp_path / "one"), a_run(tmp_path / "other")
    (one / file).write_text(text)
    with pytest.raises(Violation, match=words):
        compare.same_end(one, other)


def test_a_loss_that_differs(tmp_path: Path) -> None:
    one, other = a_run(tmp_path / "one"), a_run(tmp_path / "other")
    metrics = one / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"step": 4, "loss": 0.25', '"step": 4, "loss": 0.26'))
    with pytest.raises(Violation, match=r"metrics.jsonl at step 4: .*0\.26.*undisturbed .*0\.25"):
        compare.same_end(one, other)


def test_a_mismatch_and_a_missing_checkpoint(tmp_path: Path) -> None:
    one, other = a_run(tmp_path / "one"), a_run(tmp_path / "other")
    summary = json.loads((one / "summary.json").read_text())
    (one / "summary.json").write_text(json.dumps(summary | {"crosscheck": {"verdict": "mismatch"}}))
    with pytest.raises(Violation, match="is mismatch, not match"):
        compare.same_end(one, other)
    shutil.rmtree(newest(one).path)
    with pytest.raises(Violation, match="the last checkpoint is step-00000040, undisturbed step-00000060"):
        compare.same_end(one, other)
