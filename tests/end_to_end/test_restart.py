"""A launcher starts its ranks again while its store still holds what the first ones left there."""

import os
import subprocess
import sys

import torch.distributed as dist

from tests.support import ROOT, free_port

JOIN = """
import os, sys, time
time.sleep(float(sys.argv[1]))
from distrib.ranks import world
world.start(1, deterministic=False).wait_for_everyone()
os._exit(0)
"""


def test_ranks_do_not_wait_where_the_dead_ones_listened() -> None:
    """Rank 1 comes late, so rank 0 looks for its address in the store before the new one is there."""
    port = free_port()
    agents = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]
    for attempt in (0, 1):
        ranks = [_rank(rank, attempt, port, late=2.0 * rank * attempt) for rank in (0, 1)]
        try:
            assert [rank.wait(300) for rank in ranks] == [0, 0]
        finally:
            for rank in ranks:
                rank.kill()
                rank.wait()
    del agents


def _rank(rank: int, attempt: int, port: int, *, late: float) -> "subprocess.Popen[bytes]":
    world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    agent = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True", "CUDA_VISIBLE_DEVICES": ""}
    environment = {name: str(value) for name, value in world.items()} | agent
    environment["TORCHELASTIC_RESTART_COUNT"] = str(attempt)
    return subprocess.Popen([sys.executable, "-c", JOIN, str(late)], env=os.environ | environment, cwd=ROOT)
