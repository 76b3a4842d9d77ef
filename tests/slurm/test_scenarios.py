"""Whatever happens to a job, it ends with the same bytes as an undisturbed run."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import cast

import pytest
from _pytest.mark import ParameterSet

from tests.slurm import scenarios
from tests.slurm.cluster import Cluster
from tests.slurm.training import Training

pytestmark = [pytest.mark.xdist_group("slurm"), pytest.mark.timeout(1500)]

Cell = tuple[scenarios.Scenario, int]


def cells() -> Iterator[ParameterSet]:
    """Yield every scenario with one rank a node and with two.

    Scenarios that add little or take minutes are left to `make matrix`.
    """
    for ranks in (1, 2):
        for scenario in (*scenarios.DEFAULT, *scenarios.OTHER):
            marks = () if ranks == 1 and scenario in scenarios.DEFAULT else (pytest.mark.matrix,)
            yield pytest.param((scenario, ranks), id=f"{scenario.__name__}-{ranks}", marks=marks)


@pytest.fixture(scope="module")
def started(
    request: pytest.FixtureRequest,
    cluster: Cluster,
    undisturbed: Callable[[int], str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[dict[Cell, Future[None]]]:
    """The scenarios of this session, which run three at a time, each on its own nodes, because they mostly wait."""
    asked = [
        cast(Cell, item.callspec.params["cell"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path
    ]
    folder = tmp_path_factory.mktemp('it\'s a "run"\nfolder')
    for size in {nodes * ranks for _, ranks in asked for nodes in (1, 2)}:
        undisturbed(size)  # trained here once, because each thread would train it otherwise
    pairs: SimpleQueue[tuple[str, str]] = SimpleQueue()
    for pair in (("n1", "n2"), ("n3", "n4"), ("n5", "n6")):
        pairs.put(pair)

    def play(cell: Cell) -> None:
        scenario, ranks = cell
        pair = pairs.get()
        try:
            scenario(Training(cluster, undisturbed, folder / f"{scenario.__name__}-{ranks}", pair, ranks=ranks))
        finally:
            pairs.put(pair)

    with ThreadPoolExecutor(3) as pool:
        yield {cell: pool.submit(play, cell) for cell in asked}


@pytest.mark.parametrize("cell", list(cells()))
def test_same_bytes_at_the_end(started: dict[Cell, Future[None]], cell: Cell) -> None:
    started[cell].result()
