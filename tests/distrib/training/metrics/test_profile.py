"""A profile holds whole steps of one epoch, and costs the run nothing but time."""

from pathlib import Path

import pytest
import torch

from distrib.data.batches.plan import Plan
from distrib.display import Display
from distrib.errors import BadInput
from distrib.training.metrics.profile import WARM_UP, StepProfiler, expect_room, steps_to_profile
from tests.support import QUICKSTART, SMALL, largest_file, read_json, train, train_well

# 10 steps an epoch.
PLAN = Plan(num_images=320, batch_size=32, last_batch="drop", accumulate=1, seed=0, rank=0, world_size=1)


@pytest.mark.parametrize("steps", [1, 4, 7])
@pytest.mark.parametrize("resumed", range(25))
def test_profiled_steps_are_warm_and_of_one_epoch(steps: int, resumed: int) -> None:
    found = steps_to_profile(steps, PLAN, resumed)
    assert len(found) == steps
    assert found[0] - resumed > WARM_UP
    warm_up = PLAN.epoch_of(found[0] - WARM_UP)
    assert {PLAN.epoch_of(step) for step in found} == {warm_up}, "an evaluation lies between two epochs"
    assert warm_up <= PLAN.epoch_of(resumed + 1) + 1


def test_more_steps_than_an_epoch_has_are_refused() -> None:
    expect_room(None, PLAN)
    expect_room(7, PLAN)
    with pytest.raises(
        BadInput, match=r"output.profile_steps = 8: .* an epoch of this run has 10 steps: take 7 at most$"
    ):
        expect_room(8, PLAN)
    short = Plan(num_images=64, batch_size=32, last_batch="drop", accumulate=1, seed=0, rank=0, world_size=1)
    with pytest.raises(BadInput, match="leave it out"):
        expect_room(1, short)


def profiled(folder: Path) -> StepProfiler:
    """Multiply a matrix by itself in ten steps, of which 4 and 5 are profiled."""
    profiler = StepProfiler(range(4, 6), folder, torch.device("cpu"), Display(main=True, quiet=False))
    matrix, took = torch.eye(3), list[int]()
    for step in range(1, 11):
        torch.mm(matrix, matrix)
        if profiler.after_step(step):
            took.append(step)
    profiler.close()
    assert took in ([3, 5], [3])
    return profiler


def test_the_trace_holds_these_steps_only(tmp_path: Path) -> None:
    profiled(tmp_path)
    events = read_json(tmp_path / "profile.json")["traceEvents"]
    assert [event["name"] for event in events].count("aten::mm") == 2
    table = (tmp_path / "profile.txt").read_text()
    assert table.startswith("Profile of steps 4 to 5 on rank 0, cpu")
    assert "aten::mm" in table
    assert {path.name for path in tmp_path.iterdir()} == {"profile.txt", "profile.json"}


def test_a_disk_that_is_full_costs_a_note(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "profile.json").write_text("{}")
    with largest_file(2000):
        profiled(tmp_path)
    assert "note: no profile (OSError: " in capsys.readouterr().out
    assert (tmp_path / "profile.json").read_text() == "{}", "the old one is whole"
    assert not list(tmp_path.glob(".*"))


def test_a_run_that_is_profiled_ends_with_the_same_weights(tmp_path: Path) -> None:
    plain, folder = train_well(tmp_path / "plain", *SMALL), tmp_path / "profiled"
    [result] = train([QUICKSTART, *SMALL, "--output.profile_steps=2", "--output.dir", folder])
    assert (result.code, result.err) == (0, "")
    assert read_json(folder / "summary.json")["weights_sha256"] == plain["weights_sha256"]
    assert result.out.count(f"profile of steps 4 to 5: {folder / 'profile.txt'} and profile.json\n") == 1
    names = [event["name"] for event in read_json(folder / "profile.json")["traceEvents"]]
    assert names.count("aten::cross_entropy_loss") == 2
    assert 'href="profile.json"' in (folder / "index.html").read_text(encoding="utf-8")
    [result] = train([QUICKSTART, *SMALL, "--output.profile_steps=8", "--output.dir", tmp_path / "refused"])
    assert result.code == 2
    for words in ("output.profile_steps = 8: ", "take 7 at most", "output.profile_steps is from the command line"):
        assert words in result.err
