"""A cluster for the tests of a session. Where none can be started, they skip, or fail if CI or .ci/run promised SLURM."""

import functools
import os
from collections.abc import Callable, Generator

import pytest

from tests.slurm.cluster import Cluster, start_cluster, what_is_missing
from tests.slurm.training import LENGTH
from tests.support import train_well


def expect_slurm() -> None:
    """Skip the test, or fail it if SLURM was promised, where no cluster can be started."""
    missing = what_is_missing()
    if missing is None:
        return
    if os.environ.get("CI") or os.environ.get("TWINSTEP_REQUIRE_SLURM"):
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def cluster() -> Generator[Cluster]:
    """A cluster with three pairs of nodes, so that three jobs can be disturbed at a time."""
    expect_slurm()
    with start_cluster(nodes=6) as running:
        yield running


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """A function that returns the hash of the final weights of a training without cluster and launcher, by world size."""

    @functools.cache
    def weights(world_size: int) -> str:
        return train_well(tmp_path_factory.mktemp("undisturbed"), *LENGTH, world_size=world_size)["weights_sha256"]

    return weights
