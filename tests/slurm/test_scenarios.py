"""Whatever happens to a job, it ends with the bytes of a run that nothing happened to."""

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue

import pytest

from tests.slurm import scenarios
from tests.slurm.cluster import Cluster
from tests.slurm.training import LENGTH, Training
from tests.support import train_well

pytestmark = [pytest.mark.xdist_group("slurm"), pytest.mark.timeout(600)]

Cell = tuple[scenarios.Scenario, int]
SMALL_WORLD = [pytest.param((scenario, 1), id=scenario.__name__) for scenario in scenarios.ALL]
WHOLE_WORLD = [
    pytest.param((scenario, 2), id=f"{scenario.__name__}-2x2", marks=pytest.mark.matrix) for scenario in scenarios.ALL
]


@pytest.fixture(scope="module")
def started(
    request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Generator[dict[Cell, Future[None]]]:
    """The scenarios that this session asks for, three at a time, each on nodes of its own: most of their time is waiting."""
    cells: list[Cell] = [
        item.callspec.params["cell"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path
    ]
    folder = tmp_path_factory.mktemp('it\'s a "run"\nfolder')
    sizes = {nodes * ranks for _, ranks in cells for nodes in (1, 2)}
    undisturbed = {
        size: str(train_well(folder / f"undisturbed-{size}", *LENGTH, world_size=size)["weights_sha256"])
        for size in sizes
    }
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
        yield {cell: pool.submit(play, cell) for cell in cells}


@pytest.mark.parametrize("cell", [*SMALL_WORLD, *WHOLE_WORLD])
def test_same_bytes_at_the_end(started: dict[Cell, Future[None]], cell: Cell) -> None:
    started[cell].result()
