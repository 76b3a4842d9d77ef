"""Tests of the chaos run itself: a short run, the plan, and bad arguments."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.__main__ import main
from tests.chaos.faults import KINDS
from tests.chaos.plan import Fault, Moment, draw
from tests.chaos.report import Line, table
from tests.chaos.rounds import Round
from tests.chaos.world import Violation
from tests.processes import MARK, marked
from tests.support import ROOT, wait_until

PHASES = {name: kind.phases for name, kind in KINDS.items()}


@pytest.mark.matrix
@pytest.mark.timeout(600)  # a minute on two idle cores
def test_two_faults(tmp_path: Path) -> None:
    """Damage the newest checkpoint after a stop, and kill rank 0 while it replays."""
    folder = tmp_path / "with a space"
    command = [sys.executable, "-m", "tests.chaos", "--faults", "2", "--seed", "285", "--folder", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same bytes after 2 faults and 3 starts" in done.stdout


def test_a_broken_promise_ends_with_the_command_that_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(one: Round) -> None:
        """Leave a process, a full disk, and a file to look at; then break a promise."""
        mark = {MARK: f"{one.folder}/logs:start-001:0"}
        sleeps = [sys.executable, "-c", "import time; time.sleep(60)"]
        sleepers.append(subprocess.Popen(sleeps, env={**os.environ, **mark}))
        assert wait_until(lambda: bool(marked(f"{one.folder}/")), 10)
        (one.disk.folder / "run").write_text("half")
        if one.disk.small:
            one.disk.fill()
            assert os.statvfs(one.disk.folder).f_bavail == 0
        raise Violation("fault 3: it is lost")

    sleepers: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(Round, "run", breaks)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["--faults", "5", "--seed", "9", "--folder", str(tmp_path)]) == 1
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert capsys.readouterr().out.splitlines() == [
        "failed: fault 3: it is lost",
        f"for a look: {tmp_path / 'seed-9'}",
        "again: python -m tests.chaos --faults 5 --seed 9 --nodes 2 --ranks-per-node 1",
    ]
    assert sleepers[0].wait(10) == -signal.SIGKILL
    assert not (tmp_path / "seed-9" / "disk").is_mount()
    assert [path.read_text() for path in (tmp_path / "seed-9").rglob("run")] == ["half"]


def test_the_plan_follows_from_the_seed() -> None:
    assert draw(7, 50, PHASES) == draw(7, 50, PHASES) != draw(8, 50, PHASES)
    assert [fault.random().random() for fault in draw(7, 3, PHASES)] == [
        fault.random().random() for fault in draw(7, 3, PHASES)
    ]


def test_every_kind_comes_equally_often_and_in_each_of_its_phases() -> None:
    faults = draw(0, 100 * len(KINDS), PHASES)
    assert set(Counter(fault.kind for fault in faults).values()) == {100}
    for name, kind in KINDS.items():
        assert {fault.moment.phase for fault in faults if fault.kind == name} == set(kind.phases)


def test_what_is_impossible_here_leaves_the_rest_of_the_plan() -> None:
    every, fewer = draw(0, 22, PHASES), draw(0, 20, PHASES, impossible=("disk full",))
    assert [fault.moment for fault in fewer] == [fault.moment for fault in every if fault.kind != "disk full"]


def test_faults_of_the_replay_come_last() -> None:
    faults = draw(0, 100, PHASES)
    replays = [fault.moment.phase == "replay" for fault in faults]
    assert replays == sorted(replays)


def test_the_table_counts_and_measures() -> None:
    fault = Fault(1, "node killed", Moment("training", steps=3), "0/1")
    lines = [Line(fault, "start-001", "node 0", 5, "failed 1", seconds) for seconds in (1.0, 2.0, 9.0)]
    assert table(lines).splitlines()[1].split() == ["node", "killed", "3", "2.0", "9.0"]
    assert str(lines[0]).split() == [
        "1",
        "start-001",
        *["node", "killed", "training", "+3", "node", "0", "5", "failed", "1", "1.0"],
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--faults", "0"], ("--faults", "'0'", "above 0")),
        (["--faults", "many"], ("--faults", "'many'")),
        (["--minutes", "-1"], ("--minutes", "-1", "above 0")),
        (["--minutes", "nan"], ("--minutes", "nan")),
        (["--faults", "1", "--minutes", "1"], ("--minutes", "--faults")),
        (["--seed", "x"], ("--seed", "x")),
        (["--nodes", "1", "--ranks-per-node", "1"], ("--nodes 1", "2, 4 or 8")),
        (["--nodes", "3"], ("--nodes 3", "2, 4 or 8")),
        (["--folder", str(ROOT)], ("--folder", "empty")),
        (["--folder", str(ROOT / "Makefile")], ("--folder", "empty")),
        (["--fault", "1", "more"], ("more",)),
    ],
    ids=str,
)
def test_bad_arguments(capsys: pytest.CaptureFixture[str], arguments: list[str], words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith("bad input: ")
    assert all(word in said.err for word in words), said.err
