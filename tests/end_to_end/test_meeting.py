"""Ranks that wait for peers that never come say so, and end."""

import re
import socket
import time
from functools import partial
from pathlib import Path

import distrib.command
from distrib.ranks import meeting
from tests.support import QUICKSTART, SMALL, free_port, read_json, replace_attribute, train


def impatient(tell_every: float, rank: int) -> None:
    """Let the rank tell often for whom it waits, and report at once."""
    del rank
    replace_attribute(meeting, "_TELL_EVERY", tell_every)
    replace_attribute(distrib.command, "_LET_RANK_0_REPORT", 0.0)


def alone(rank: int, folder: Path, port: int, address: str = "127.0.0.1", world_size: int = 3) -> str:
    """Start one rank of so many and nobody else, expect that it gives up as it should, and return what it said."""
    world = {"WORLD_SIZE": world_size, "RANK": rank, "LOCAL_RANK": 0, "MASTER_ADDR": address, "MASTER_PORT": port}
    environment = {name: str(value) for name, value in world.items()} | {"TWINSTEP_STATUS": str(folder / "told.json")}
    options = ("--training.start_timeout_seconds=3", "--output.dir", folder / "run")
    began = time.monotonic()
    [result] = train([QUICKSTART, *SMALL, *options], environment=environment, plant=partial(impatient, 1.0))
    assert time.monotonic() - began < 300
    told = read_json(folder / "told.json")
    assert (result.code, told["exit_code"], told["retry"]) == (1, 1, True), result
    assert "Traceback" not in result.err
    return result.err


def test_rank_0_names_those_that_did_not_come(tmp_path: Path) -> None:
    port = free_port()
    said = alone(0, tmp_path, port)
    assert re.search(rf"waiting at 127.0.0.1:{port}: rank 1, 2 did not come yet \([1-9] of 3 s\)", said)
    assert f"fault: the ranks did not meet at 127.0.0.1:{port}: rank 1, 2 did not come yet, after " in said
    assert "training.start_timeout_seconds = 3" in said


def test_rank_0_whose_port_is_taken(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        said = alone(0, tmp_path, other.getsockname()[1])
    assert (
        "rank 0 cannot hold the store of all ranks there, because another program has the port, or MASTER_ADDR" in said
    )
    assert "EADDRINUSE" in said


def test_the_only_rank_meets_nobody_where_it_has_no_address(tmp_path: Path) -> None:
    """Torchrun or a script may start one process with the variables of a rank."""
    said = alone(0, tmp_path, free_port(), "no-such-host.invalid", world_size=1)
    assert "fault: the ranks did not meet at no-such-host.invalid:" in said


def test_rank_0_that_has_no_such_address(tmp_path: Path) -> None:
    """Nothing at the address of another machine answers as the store does that rank 0 has just opened."""
    said = alone(0, tmp_path, free_port(), "no-such-host.invalid")
    assert "fault: the ranks did not meet at no-such-host.invalid:" in said
    assert "MASTER_ADDR is not an address of rank 0's machine" in said
    [seconds] = re.findall(r", after (\d+) s \(training.start_timeout_seconds = 3\)", said)
    assert int(seconds) < 6, "torch tries twice, for as long as it is told each time"


def test_another_rank_names_the_one_that_holds_the_store(tmp_path: Path) -> None:
    port = free_port()
    said = alone(1, tmp_path, port)
    assert f"fault: the ranks did not meet at 127.0.0.1:{port}: the one that holds the store of all ranks" in said
