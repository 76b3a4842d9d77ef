"""Every command that the documents show does what they say, in the order in which a page shows them, on a small set of images.

A command of a batch system, or of a machine with several GPUs, runs as the training that it would start, on two CPU processes.
What is not run here is `NOT_HERE`, each with where it is.
"""

import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
from PIL import Image

from tests.documents import DOCUMENTS, commands, name, scripts
from tests.support import ROOT

NOT_HERE = {
    r"(make|source|eval|pip) ": "setting up, which CI does",
    r"python -m tests\.": "tests of their own",
    r"(python -m|twinstep) distrib(\.checkpoint)?\.bench|.*-m distrib\.bench|twinstep bench": (
        "tests/distrib/test_bench.py; they take minutes"
    ),
    r"sbatch .*slurm/(sweep|crosscheck)\.sbatch": "tests/slurm, on a SLURM",
    r"twinstep atlas|.*crosscheck atlas": "tests/crosscheck/test_atlas.py; minutes",
}
_PLACEHOLDERS = {"PATH": "pictures", "IMAGES": "pictures", "FILE": "sweep.txt"}
_SMALL = "--data.train_images 256 --data.test_images 100"
_PAGES = [document for document in DOCUMENTS if commands(document)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with what the documents take to be there: launch files, images of two classes, a file of runs, a script."""
    for shown in ("launch", "slurm"):
        (tmp_path / shown).symlink_to(ROOT / shown)
    rng = numpy.random.default_rng(0)
    for split, count in (("train", 80), ("test", 10)):
        for label in ("owl", "wren"):
            folder = tmp_path / "pictures" / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=numpy.uint8)).save(folder / f"{number}.jpg")
    numpy.savez(
        tmp_path / "birds.npz",
        x_train=rng.integers(0, 256, (160, 28, 28), dtype=numpy.uint8),
        y_train=numpy.arange(160) % 2,
        x_test=rng.integers(0, 256, (20, 28, 28), dtype=numpy.uint8),
        y_test=numpy.arange(20) % 2,
    )
    (tmp_path / "photo.jpg").write_bytes((tmp_path / "pictures/test/owl/0.jpg").read_bytes())
    (tmp_path / "folder").symlink_to("pictures/test/wren")
    (tmp_path / "sweep.txt").write_text(
        f"quickstart --training.epochs 1 {_SMALL}\nquickstart --training.seed 1 --training.epochs 1 {_SMALL}\n"
    )
    (tmp_path / "train.py").write_text(
        "import torch\nw = torch.nn.Parameter(torch.ones(9))\no = torch.optim.Adam([w])\n"
        "for step in range(4):\n    ((step + 1) * w).square().sum().backward(); o.step(); o.zero_grad()\n"
    )
    (tmp_path / "bin").mkdir()
    for program, runs in (
        ("twinstep", "-m twinstep"),
        ("python", ""),
        ("accelerate", "-m accelerate.commands.accelerate_cli"),
    ):
        script = tmp_path / "bin" / program
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {runs} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return tmp_path


def run(command: str, place: Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {
        "PATH": f"{place / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(place),  # no images that somebody downloaded
    }
    return subprocess.run(command, shell=True, cwd=place, env=environment, capture_output=True, text=True, timeout=800)  # noqa: S602


def runnable(command: str) -> str:
    """Return the command for this machine and these images."""
    command = re.sub(r"^sbatch .*slurm/train\.sbatch", "python -m distrib.train", command)
    if "launch/multi-" in command:
        command = re.sub(r"launch/multi-\w+\.yaml", "launch/cpu-2.yaml", command)
        command = re.sub(r"--training\.world_size \d+", "--training.world_size 2", command)
        command = re.sub(r"--(num_processes|machine_rank|main_process_ip) \S+ ?", "", command)
    for placeholder, meant in _PLACEHOLDERS.items():
        command = re.sub(rf"(?<![\w/]){placeholder}(?!\w)", meant, command)
    if re.search(r"(distrib\.train|twinstep train) (?!-)", command):
        command += f" {_SMALL}" + (
            "" if "--data.source" in command else " --data.source synthetic --data.download false"
        )
    return command


@pytest.mark.matrix
@pytest.mark.parametrize("document", _PAGES, ids=name)
def test_the_commands_of_a_page(document: Path, place: Path) -> None:
    text = document.read_text(encoding="utf-8")
    if "runs/sgd" in text and "--output.dir runs/sgd" not in text:  # a page about a run that another page makes
        assert (
            run(runnable("twinstep train quickstart --training.epochs 1 --output.dir runs/sgd"), place).returncode == 0
        )
    for command in commands(document):
        if any(re.match(pattern, command) for pattern in NOT_HERE):
            continue
        ended = run(runnable(command), place)
        assert ended.returncode == 0, f"{command}\n{ended.stdout[-2000:]}\n{ended.stderr[-2000:]}"


@pytest.mark.matrix
def test_the_scripts_of_the_first_hour(place: Path) -> None:
    *_, broken, fused = scripts(ROOT / "docs/start.md")
    (place / "broken.py").write_text(broken)
    ended = run("python broken.py", place)
    assert ended.returncode == 1
    assert "weight decay is applied twice" in ended.stderr
    (place / "fused.py").write_text(fused)
    ended = run("python fused.py", place)
    assert ended.returncode == 0, ended.stderr
    assert re.match(r"(mis)?match: ", ended.stdout), "memory that was never written may hold anything"
