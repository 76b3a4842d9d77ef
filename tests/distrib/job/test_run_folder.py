"""Tests the run's folder: its name, and whether every machine sees it."""

import socket
from pathlib import Path

import pytest

from distrib.errors import BadInput
from distrib.job import run_folder
from tests.races import another_makes_it_first
from tests.support import QUICKSTART, SMALL, train, train_well

RUN = "quickstart"


def test_the_default_folder_of_a_job_is_the_same_at_every_start() -> None:
    environment = {"TWINSTEP_RUN_ID": "12_3", "TORCHELASTIC_MAX_RESTARTS": "2"}
    assert run_folder.default_folder(RUN, environment) == Path("runs/quickstart-12_3")
    assert run_folder.default_folder(RUN, {"TORCHELASTIC_MAX_RESTARTS": "0"}).name.startswith("quickstart-20")


@pytest.mark.parametrize("given", ["", " "])
def test_an_empty_name_is_not_the_current_folder(given: str) -> None:
    with pytest.raises(BadInput, match=r"output\.dir = \" *\" names no folder"):
        run_folder.find_folder(given, RUN)
    assert run_folder.find_folder(".", RUN) == Path()


def test_all_that_a_run_writes_is_known(tmp_path: Path) -> None:
    """This keeps a run from overwriting a file of the user."""
    more = ["--crosscheck.record=true", "--output.profile_steps=2", "--output.trackers=tensorboard"]
    train_well(tmp_path, *SMALL, *more)
    tensorboard = {path.name for path in tmp_path.iterdir() if list(path.glob("events.out.*"))}
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    known = (*run_folder.WRITTEN, "checkpoints/", ".lock", *tensorboard)
    assert {name for name in files if not name.startswith(tuple(known))} == set()
    assert set(run_folder.WRITTEN) - {"page/mistakes.json"} <= set(run_folder.files_in_the_way(tmp_path))


def test_runs_that_begin_in_the_same_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def same_second(_format: str) -> str:
        return "20260101-000000"

    monkeypatch.setattr("time.strftime", same_second)
    monkeypatch.chdir(tmp_path)
    for name in ("quickstart-20260101-000000", "quickstart-20260101-000000-2", "quickstart-20260101-000000-3"):
        folder = run_folder.default_folder(RUN, {})
        assert folder == Path("runs") / name
        folder.mkdir(parents=True)


def test_runs_that_begin_at_the_same_moment_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    another_makes_it_first(monkeypatch)
    mine = run_folder.make_folder(None, RUN)
    assert len(list(Path("runs").iterdir())) == 2
    assert run_folder.make_folder(str(mine), RUN) == mine, "a folder that is given may be there"
    mine.with_name("file").touch()
    with pytest.raises(FileExistsError, match="file"):
        run_folder.make_folder(str(mine.with_name("file")), RUN)


def test_a_restart_needs_a_folder_that_it_finds_again() -> None:
    [result] = train([QUICKSTART, *SMALL], environment={"TORCHELASTIC_MAX_RESTARTS": "1"})
    assert result.code == 2
    for word in ("--max_restarts", "--output.dir", "TWINSTEP_RUN_ID"):
        assert word in result.err


def test_a_folder_that_this_machine_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "_NFS_SECONDS", 0.3)
    problem = run_folder.wait_until_visible(tmp_path / "elsewhere")
    assert problem is not None
    for word in ("output.dir", "elsewhere", socket.gethostname(), "share"):
        assert word in problem
    (tmp_path / "status.json").touch()
    assert run_folder.wait_until_visible(tmp_path) is None
