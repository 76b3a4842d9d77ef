"""Tests what is asked of the operating system."""

from pathlib import Path

import pytest

from distrib import system


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        ("0::/job/step\n", {"job/memory.max": "3000", "job/step/memory.max": "max"}, [3000]),
        ("0::/\n", {"memory.max": "500"}, [500]),
        ("0::/gone/from/here\n", {"memory.max": "7"}, [7]),
        ("5:cpu:/x\n4:memory:/job\n", {"memory/job/memory.limit_in_bytes": "9"}, [9]),
        ("0::/\n", {}, []),
    ],
)
def test_limits_of_a_container_or_a_job(tmp_path: Path, groups: str, files: dict[str, str], limits: list[int]) -> None:
    told = {"proc/self/cgroup": groups} | {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in told.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(system.cgroup_limits(tmp_path)) == limits


def test_no_limits_where_there_are_no_groups(tmp_path: Path) -> None:
    assert list(system.cgroup_limits(tmp_path)) == []
    assert system.memory() > 0
