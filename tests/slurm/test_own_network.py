"""Ranks find each other where each node has its own address.

They must find the first node by its name there, because loopback leads nowhere.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.slurm import scenarios
from tests.slurm.cluster import start_cluster
from tests.slurm.conftest import expect_slurm
from tests.slurm.training import Training

pytestmark = pytest.mark.xdist_group("slurm")


def test_two_nodes_find_each_other(undisturbed: Callable[[int], str], tmp_path: Path) -> None:
    expect_slurm()
    with start_cluster(network="own") as cluster:
        scenarios.plain(Training(cluster, undisturbed, tmp_path / "run", ("n1", "n2")))
