"""The contest of loops, and the guard on what the training loop costs: ratios of processor time, with generous margins."""

from pathlib import Path

import pytest

from tests.bench import contest, page, report, scaling
from tests.bench.entrants import ACCELERATE, BARE, ENTRANTS, TWINSTEP, Entrant, Epoch, Running
from tests.bench.table import table

BY_NAME = {entrant.name: entrant for entrant in ENTRANTS}
MOST_OVER_BARE = 1.5
"""The loop's processor time beside that of the bare step. It is 1.04 on a quiet machine."""
MOST_OVER_ACCELERATE = 0.75
"""And beside Accelerate's example, in the layout that its users write. It is 0.5."""


def test_the_loop_costs_little_more_than_the_bare_step_and_much_less_than_a_loader_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processor time on one thread says the same on a busy machine, as a clock on the wall does not."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    entrants = [BY_NAME[name] for name in (TWINSTEP, BARE, ACCELERATE)]
    taken = contest.run(entrants, steps=15, rounds=3, folder=tmp_path)
    loop, bare, accelerate = (min(epoch.cpu for epoch in taken[entrant.name]) for entrant in entrants)
    assert loop < MOST_OVER_BARE * bare
    assert loop < MOST_OVER_ACCELERATE * accelerate


@pytest.mark.matrix
@pytest.mark.parametrize("entrant", ENTRANTS, ids=lambda entrant: entrant.name)
def test_every_loop_trains(entrant: Entrant, tmp_path: Path) -> None:
    with Running(entrant, steps=2, log=tmp_path / "log") as running:
        assert min(running.epoch().wall for _ in range(2)) > 0


def test_a_loop_that_ends_says_its_last_words(tmp_path: Path) -> None:
    entrant = Entrant("a loop without its argument", ("timm_loader",))
    with pytest.raises(RuntimeError, match=r"a loop without its argument ended with 1: [\s\S]*IndexError"):
        contest.run([entrant], steps=2, rounds=1, folder=tmp_path)


def _report() -> report.Report:
    taken = {
        "slow": [Epoch(4.0, 8.0), Epoch(6.0, 8.0), Epoch(8.0, 8.0)],
        TWINSTEP: [Epoch(2.0, 4.0), Epoch(2.0, 4.0), Epoch(2.0, 4.0)],
    }
    return report.of(taken, steps=10, batch=100)


def test_the_table_compares_round_by_round_and_begins_with_the_fastest(tmp_path: Path) -> None:
    _report().write(tmp_path / "report.json")
    rows = table(report.read(tmp_path / "report.json"))[2:]
    assert rows == [
        f"| {TWINSTEP} | 500 [500, 500] |  |",
        "| slow | 167 [125, 250] | 3.00 [2.00, 4.00] |",
    ]


def test_the_plot_and_the_section_are_of_the_report(tmp_path: Path) -> None:
    page.draw(_report(), tmp_path / "plot.svg")
    assert "<svg" in (tmp_path / "plot.svg").read_text()
    assert "10 batches of 100" in page.section(_report())


def test_more_ranks_are_less_efficient_and_a_slower_link_costs_more() -> None:
    work = scaling.Workload("a training", step=0.01, bytes=45_000_000)
    shares = [scaling.efficiency(work, scaling.NVLINK, ranks) for ranks in (1, 2, 4, 8, 64)]
    assert shares[0] == 1
    assert sorted(shares, reverse=True) == shares
    assert 0 < scaling.efficiency(work, scaling.ETHERNET, 8) < shares[3] < 1


def test_without_latency_two_ranks_move_the_gradients_once() -> None:
    work = scaling.Workload("a training", step=1.0, bytes=10**9)
    assert scaling.efficiency(work, scaling.Link("a link", 1e9, 0.0), 2) == pytest.approx(0.5)
