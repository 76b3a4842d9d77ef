"""A launcher starts its ranks again while its store still holds what the first ones left there."""

import os
import time

import torch.distributed as dist

from distrib.ranks import world
from tests.support import RANKS, free_port


def join(environment: dict[str, str], late: float) -> None:
    """Be a rank that comes so many seconds late, meets the others, and ends without a farewell."""
    os.environ |= environment
    time.sleep(late)
    world.start(1, deterministic=False).wait_for_everyone()
    os._exit(0)


def test_ranks_do_not_wait_where_the_dead_ones_listened() -> None:
    """Rank 1 comes late, so rank 0 looks for its address in the store before the new one is there."""
    port = free_port()
    agents = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)  # pyright: ignore[reportPrivateImportUsage]
    for attempt in (0, 1):
        ranks = [
            RANKS.Process(target=join, args=(_environment(rank, attempt, port), 1.0 * rank * attempt), daemon=True)
            for rank in (0, 1)
        ]
        try:
            for rank in ranks:
                rank.start()
            for rank in ranks:
                rank.join(300)
            assert [rank.exitcode for rank in ranks] == [0, 0]
        finally:
            for rank in ranks:
                rank.kill()
    del agents


def _environment(rank: int, attempt: int, port: int) -> dict[str, str]:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    agent = {"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True", "CUDA_VISIBLE_DEVICES": ""}
    return {name: str(value) for name, value in numbers.items()} | agent | {"TORCHELASTIC_RESTART_COUNT": str(attempt)}
