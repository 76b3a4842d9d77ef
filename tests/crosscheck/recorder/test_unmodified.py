"""Ranks that hold the same parameters record into one folder, and others into another."""

from collections.abc import Generator
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from crosscheck.recorder.unmodified import record
from crosscheck.trace.reader import open_trace


@pytest.fixture
def rank_6_of_24() -> Generator[None]:
    distributed.init_process_group("fake", rank=6, world_size=24, store=FakeStore())
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("rank_6_of_24")
@pytest.mark.parametrize(
    ("ranks", "kind", "among", "place"),
    [
        (list(range(24)), "replicated", "", (6, 24)),
        ([4, 6], "replicated", "-ranks-4-6", (1, 2)),
        (list(range(0, 24, 2)), "replicated", "-ranks-0-to-22-d20db0df", (3, 12)),
        ([6], "optimizer", "", (0, 1)),
    ],
    ids=["all", "two", "twelve", "one"],
)
def test_the_ranks_of_a_group_of_ddp(
    ranks: list[int], kind: str, among: str, place: tuple[int, int], tmp_path: Path
) -> None:
    """As of a pipeline, each stage of which is trained by some of the ranks. The other optimizers of a process are counted."""
    group = distributed.new_group(ranks)
    names: list[str] = []
    for _ in range(2):
        model = DistributedDataParallel(torch.nn.Linear(3, 2), process_group=group)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        trace = record(optimizer, tmp_path, "auto")
        folder = trace / f"rank-{place[0]:04}" if place[0] else trace
        header = open_trace(folder)[0].header
        assert (header.rank, header.world_size) == place
        names.append(trace.name)
    first, second = (int(name.split("-")[1]) for name in names)
    assert (names, second) == ([f"{kind}-{first}{among}", f"{kind}-{second}{among}"], first + 1)


@pytest.mark.usefixtures("rank_6_of_24")
def test_a_group_that_was_destroyed_has_no_ranks(tmp_path: Path) -> None:
    group = distributed.new_group([4, 6])
    model = DistributedDataParallel(torch.nn.Linear(3, 2), process_group=group)
    distributed.destroy_process_group(group)
    trace = record(torch.optim.SGD(model.parameters(), lr=0.1), tmp_path, "auto")
    assert open_trace(trace)[0].header.world_size == 1


@pytest.mark.usefixtures("rank_6_of_24")
def test_a_rank_whose_group_cannot_be_asked_is_not_taken_to_be_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = DistributedDataParallel(torch.nn.Linear(3, 2), process_group=distributed.new_group([4, 6]))

    def fail(_: object) -> NoReturn:
        raise RuntimeError("planted")

    monkeypatch.setattr(distributed, "get_process_group_ranks", fail)
    with pytest.raises(RuntimeError, match="planted"):
        record(torch.optim.SGD(model.parameters(), lr=0.1), tmp_path, "auto")
