"""A trace is replayed while somebody writes it."""

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from crosscheck.errors import TraceError
from crosscheck.follower import Follower, NothingCame
from crosscheck.report.report import Report
from crosscheck.report.verdict import Verdict
from tests.crosscheck.trace.trace_files import Arrays, Meta, part_file, record, rewrite, run, segment, sgd
from tests.support import ROOT, wait_for

Told = list[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three parts of two steps each, and an end."""
    return record(tmp_path_factory.mktemp("whole") / "trace", sgd)


def follower(path: Path, told: Told, *, timeout: float = 120.0, linger: float = 0.0) -> Follower:
    return Follower(path=path, tell=told.append, every=0.02, timeout=timeout, linger=linger)


def bring(whole: Path, path: Path, *names: str) -> None:
    """Bring files of the trace to another folder, as a recorder would: under their name when they are whole."""
    segment(path).mkdir(parents=True, exist_ok=True)
    for name in names:
        for file in segment(whole).glob(name):
            unfinished = segment(path) / f".{file.name}"
            shutil.copy(file, unfinished)
            unfinished.rename(segment(path) / file.name)


def following(path: Path, told: Told, *steps: tuple[str, Callable[[], object]], linger: float = 0.0) -> Report:
    """Follow a trace; as soon as it waits for what the text says, the step is done."""
    results: list[Report] = []
    watcher = threading.Thread(target=lambda: results.append(follower(path, told, linger=linger).follow()))
    watcher.start()
    for text, step in steps:
        deadline = time.monotonic() + 120
        while not (told and text in told[-1]) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert told, text
        assert text in told[-1]
        step()
    watcher.join(120)
    [report] = results
    return report


def harm(whole: Path, to: Path) -> Path:
    """Copy a trace, with an element changed after step 3, in its second part."""

    def change(_: Meta, arrays: Arrays) -> None:
        arrays["0/1/after"][0, 1] = 7.0

    shutil.copytree(whole, to)
    rewrite(to, 2, change)
    return to


def test_it_follows_a_trace_from_before_its_beginning_to_its_end(whole: Path, tmp_path: Path) -> None:
    told: Told = []
    path = tmp_path / "run" / "trace"
    report = following(
        path.parent,
        told,
        ("waiting for", lambda: bring(whole, path, "header.json", "part-000001*")),
        ("part 2", lambda: bring(whole, path, "part-000002*")),
        ("part 3", lambda: bring(whole, path, "part-000003*", "end.json")),
    )
    assert (report.verdict, report.steps) == (Verdict.MATCH, 6)
    assert not any("without being closed" in note for note in report.notes)
    assert told == [
        f"waiting for {path.parent} to begin",
        "waiting for part 2 of trace/segment-0001; no mismatch up to step 2",
        "waiting for part 3 of trace/segment-0001; no mismatch up to step 4",
    ]


def test_it_ends_at_the_first_mismatch(whole: Path, tmp_path: Path) -> None:
    """Nobody writes the third part, nor an end."""
    told: Told = []
    harmed, path = harm(whole, tmp_path / "harmed"), tmp_path / "trace"
    bring(harmed, path, "header.json", "part-000001*")
    report = following(path, told, ("part 2", lambda: bring(harmed, path, "part-000002*")))
    assert (report.verdict, report.steps) == (Verdict.MISMATCH, 4)
    assert (report.findings[0].step, report.findings[0].tensor, report.findings[0].index) == (3, "bias", (1,))
    assert any("is still going on" in note for note in report.notes)


def test_what_takes_a_whole_segment_is_asked_as_well(whole: Path, tmp_path: Path) -> None:
    """The count of a schedule is a conclusion on all steps, and the claim is wrong from the second part on."""
    told: Told = []
    claims = '"claims": {"schedule": {"name": "multistep", "milestones": [2], "gamma": 0.1}},'
    bring(whole, path := tmp_path / "trace", "header.json", "part-000001*")
    header = segment(path) / "header.json"
    header.write_text(header.read_text().replace('"claims": null,', claims))
    report = following(path, told, ("part 2", lambda: bring(whole, path, "part-000002*")))
    assert [(finding.check, finding.step) for finding in report.findings] == [("learning rate", 3)]


def test_a_requeued_run_is_followed_into_its_next_segment(whole: Path, tmp_path: Path) -> None:
    """The first start was killed after step 4. The second one goes on after it."""
    told: Told = []
    bring(whole, path := tmp_path / "trace", "header.json", "part-000001*", "part-000002*")

    def requeue() -> None:
        later = shutil.copytree(segment(whole), path / ".later")
        for part in (part_file(whole, 1), part_file(whole, 2)):
            (later / part.name).unlink()
        third = next(later.glob("part-000003*"))
        third.rename(later / third.name.replace("part-000003", "part-000001"))
        (later / "end.json").write_text('{"parts": 1, "last_step": 6}')
        header = later / "header.json"
        text = header.read_text().replace('"first_step": 1', '"first_step": 5')
        header.write_text(text.replace('"attached_with_state": false', '"attached_with_state": true'))
        later.rename(path / "segment-0002")

    report = following(path, told, ("part 3", requeue))
    assert (report.verdict, report.steps) == (Verdict.MATCH, 6)
    assert f"{path} has a new segment: a run or a rank of it was started, and the replay starts again" in told
    assert any("bit for bit, against what step 4 left" in note for note in report.notes)


def test_all_ranks_are_followed(whole: Path, tmp_path: Path) -> None:
    """Rank 1 begins late, and differs from rank 0 in its second part."""
    told: Told = []
    harmed = harm(whole, tmp_path / "harmed")
    bring(whole, path := tmp_path / "trace", "header.json", "part-000001*", "part-000002*")

    def become(rank: int, header: Path) -> None:
        alone = header.read_text()
        header.write_text(alone.replace('"rank": 0', f'"rank": {rank}').replace('"world_size": 1', '"world_size": 2'))

    become(0, segment(path) / "header.json")

    def begin() -> None:
        other = path / "rank-0001"
        bring(harmed, other / "later", "header.json", "part-000001*")
        become(1, segment(other / "later") / "header.json")
        segment(other / "later").rename(segment(other))

    ready = (
        ("part 3", begin),
        ("part 2 of rank-0001/segment-0001", lambda: bring(harmed, path / "rank-0001", "part-000002*")),
    )
    report = following(path, told, *ready)
    assert (report.verdict, report.ranks) == (Verdict.MISMATCH, 2)
    assert [finding.tensor for finding in report.findings if finding.check == "replicas"] == ["bias"]


def test_a_closed_trace_may_be_lingered_at(whole: Path) -> None:
    told: Told = []
    report = follower(whole, told, linger=0.1).follow()
    assert report.verdict is Verdict.MATCH
    assert told == ["the trace is closed; waiting 0.1 s for another segment; no mismatch up to step 6"]


def test_it_gives_up_when_nothing_comes(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(NothingCame, match=r"while waiting for .*nowhere to begin") as found:
        follower(tmp_path / "nowhere", [], timeout=0.1).follow()
    assert found.value.report is None
    bring(whole, tmp_path / "trace", "header.json", "part-000001*")
    with pytest.raises(
        NothingCame, match="while waiting for part 2 of segment-0001; no mismatch up to step 2"
    ) as found:
        follower(tmp_path / "trace", [], timeout=0.1).follow()
    assert found.value.report is not None
    assert found.value.report.verdict is Verdict.MATCH


def test_what_is_no_trace_or_damaged_is_refused(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TraceError, match="is not a trace"):
        follower(tmp_path / "file", []).follow()
    shutil.copytree(whole, tmp_path / "gap")
    part_file(tmp_path / "gap", 2).unlink()
    with pytest.raises(TraceError, match="part 2 is missing"):
        follower(tmp_path / "gap", []).follow()


def test_the_command(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "watch", whole)
    assert (code, err, out.startswith("match: ")) == (0, "", True)
    code, out, err = run(capsys, "watch", harm(whole, tmp_path / "harmed"), "--json", tmp_path / "report.json")
    assert (code, err, out.startswith("mismatch: ")) == (1, "", True)
    assert '"verdict": "mismatch"' in (tmp_path / "report.json").read_text()
    code, out, err = run(capsys, "watch", tmp_path / "none", "--timeout", "0.1", "--every", "0.05")
    assert (code, out) == (4, "")
    assert err.splitlines()[-1].startswith("crosscheck: nothing new came for 0.1 s, while waiting for ")
    with pytest.raises(SystemExit):
        run(capsys, "watch", whole, "--timeout", "-1")


def test_an_interrupted_watch_says_so_without_a_traceback(tmp_path: Path) -> None:
    with (tmp_path / "output").open("w") as output:
        arguments = [sys.executable, "-m", "crosscheck", "watch", str(tmp_path / "none")]
        process = subprocess.Popen(arguments, stdout=output, stderr=output, cwd=ROOT)
        wait_for(tmp_path / "output", "waiting for")
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
    said = (tmp_path / "output").read_text()
    assert "Traceback" not in said
    assert said.endswith("crosscheck: interrupted, and there is no verdict\n")
