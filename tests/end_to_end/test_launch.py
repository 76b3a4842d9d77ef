"""The commands of the launch files, through the real `accelerate launch`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import QUICKSTART, ROOT, SMALL, free_port, losses, read_json

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch"]


def launch(*arguments: str | Path, **environment: str) -> subprocess.Popen[str]:
    command = [*LAUNCH, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, text=True, **pipes)  # pyright: ignore[reportCallIssue, reportUnknownVariableType, reportArgumentType]


def run(*arguments: str | Path, **environment: str) -> tuple[int, str, str]:
    process = launch(*arguments, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_one_and_two_processes_give_the_same_curve(tmp_path: Path) -> None:
    for name, size in (("cpu", "1"), ("cpu-2", "2")):
        options = (*SMALL, "--training.world_size", size, "--output.dir", tmp_path / name)
        code, out, err = run("-q", "--config_file", f"launch/{name}.yaml", "-m", "distrib.train", QUICKSTART, *options)
        assert code == 0, err
        assert out.count("done: ") == 1
        assert read_json(tmp_path / name / "summary.json")["world_size"] == int(size)
    assert losses(tmp_path / "cpu-2") == pytest.approx(losses(tmp_path / "cpu"), rel=2e-5)


def test_the_launch_that_silently_starts_one_process_is_refused(tmp_path: Path) -> None:
    options = (*SMALL, "--training.world_size=2", "--output.dir", tmp_path)
    code, _, err = run("-q", "--cpu", "--num_processes", "2", "-m", "distrib.train", QUICKSTART, *options)
    assert code != 0
    assert "training.world_size = 2, but this run has 1 process(es)" in err
    assert "launch/cpu-2.yaml" in err


def test_two_machines_join_one_world(tmp_path: Path) -> None:
    """launch/multi-node.yaml with its numbers made small and both machines on this one."""
    size = ("--num_machines", "2", "--num_processes", "2", "--main_process_ip", "127.0.0.1")
    port = ("--main_process_port", str(free_port()))
    options = (QUICKSTART, *SMALL, "--training.world_size=2", "--output.dir", tmp_path)
    nodes = [
        launch("--config_file", "launch/multi-node.yaml", *size, *port, "--machine_rank", str(rank),
               "-m", "distrib.train", *options, CUDA_VISIBLE_DEVICES="")
        for rank in (0, 1)
    ]  # fmt: skip
    outputs = [node.communicate(timeout=120) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert read_json(tmp_path / "summary.json")["world_size"] == 2
    assert "done: " in outputs[0][0]
    assert outputs[1][0] == ""


def test_bad_input_under_the_launcher_is_said_once(tmp_path: Path) -> None:
    options = ("--training.world_size=2", "--data.source=folder:/nowhere", "--output.dir", tmp_path)
    code, _, err = run("-q", "--config_file", "launch/cpu-2.yaml", "-m", "distrib.train", QUICKSTART, *options)
    assert code != 0
    assert err.count("bad input: ") == 1
    assert read_json(tmp_path / "status.json")["exit_code"] == 2
