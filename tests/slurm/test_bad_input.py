"""The batch scripts refuse bad input with one line and exit code 2, before any launcher starts."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.training import LENGTH, RECIPE
from tests.support import ROOT

TRAIN, SWEEP, CROSSCHECK = (f"slurm/{name}.sbatch" for name in ("train", "sweep", "crosscheck"))
JOB = {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "1"}


def refused(script: str, *arguments: str | Path, variables: Mapping[str, str] = JOB, folder: Path = ROOT) -> str:
    """Run the script as SLURM would run its copy, with this Python, and return the line with which it refuses."""
    path = f"{Path(sys.executable).parent}:{os.defpath}"
    command = ["/bin/bash", ROOT / script, *map(str, arguments)]
    everything = {"PATH": path, "SETUP": str(ROOT / "tests/slurm/__init__.py"), **variables}  # an empty file
    result = subprocess.run(command, cwd=folder, env=everything, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, ""), result
    assert result.stderr.startswith("bad input: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.mark.parametrize("script", [TRAIN, SWEEP, CROSSCHECK])
def test_scripts_are_bash_and_meant_for_sbatch(script: str, tmp_path: Path) -> None:
    subprocess.run(["/bin/bash", "-n", ROOT / script], check=True)
    assert "no SLURM_JOB_ID" in refused(script, RECIPE, variables={})
    assert "is not the project's root" in refused(script, RECIPE, folder=tmp_path)
    assert "bad input: no " in refused(script)


@pytest.mark.parametrize("recipe", ["launch/recipes/no such 'recipe'.toml", "launch", "two\nlines", ""])
def test_recipe(recipe: str) -> None:
    assert "cannot be read: it is a file such as launch/recipes/quickstart.toml" in refused(TRAIN, recipe)


@pytest.mark.parametrize("ranks", ["0", "-1", "two", "1.5", "08", " ", "1234567", "gpus"])
def test_ranks(ranks: str) -> None:
    said = refused(TRAIN, RECIPE, variables={**JOB, "RANKS_PER_NODE": ranks})
    assert f"RANKS_PER_NODE = '{ranks}' is not a whole number from 1 to 999999" in said


def test_more_ranks_than_gpus() -> None:
    said = refused(TRAIN, RECIPE, variables={**JOB, "RANKS_PER_NODE": "5", "SLURM_GPUS_ON_NODE": "4"})
    assert "RANKS_PER_NODE = 5, but the job has 4 GPU(s) on a node: ask for more" in said


@pytest.mark.parametrize("name", ["STOP_SECONDS", "MAX_RESTARTS"])
def test_numbers(name: str) -> None:
    assert f"{name} = 'soon' is not a whole number" in refused(TRAIN, RECIPE, variables={**JOB, name: "soon"})


def test_environment(tmp_path: Path) -> None:
    assert "SETUP = '/nowhere' cannot be read" in refused(TRAIN, RECIPE, variables={**JOB, "SETUP": "/nowhere"})
    nothing = tmp_path / "nothing"
    nothing.write_text("PATH=/nowhere\n")
    assert "no python that can run this (" in refused(TRAIN, RECIPE, variables={**JOB, "SETUP": str(nothing)})
    bare = tmp_path / "bare"
    bare.write_text('python() { command python -S -I "$@"; }\n')  # finds the standard library only
    assert "(it has no torch, it has no accelerate; PATH=" in refused(
        TRAIN, RECIPE, variables={**JOB, "SETUP": str(bare)}
    )
    assert "a quote that is not closed" in refused(TRAIN, RECIPE, variables={**JOB, "CONTAINER": "run 'an image"})
    assert "no-such-program" in refused(
        TRAIN, RECIPE, variables={**JOB, "CONTAINER": "no-such-program exec 'an image'"}
    )


def test_sweep(tmp_path: Path) -> None:
    assert "cannot be read" in refused(SWEEP, tmp_path / "none")
    runs = tmp_path / "two runs"
    runs.write_text("a.toml\n\n  # nothing\nb.toml\n")
    assert f"no SLURM_ARRAY_TASK_ID; '{runs}' has 2 run(s): sbatch --array=1-2 slurm" in refused(SWEEP, runs)
    for task in ("0", "3"):
        assert f"task {task} of the array has no run" in refused(
            SWEEP, runs, variables={**JOB, "SLURM_ARRAY_TASK_ID": task}
        )
    runs.write_text("a.toml\nb.toml --output.dir 'open\n")
    assert f"'{runs}', line 2: no closing quotation" in refused(
        SWEEP, runs, variables={**JOB, "SLURM_ARRAY_TASK_ID": "2"}
    )


def test_two_lines_of_a_sweep_with_one_folder(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    task = {**JOB, "SLURM_ARRAY_JOB_ID": "1", "SLURM_ARRAY_TASK_ID": "1"}
    runs.write_text("a.toml --output.dir=x\nb.toml --output.dir ./x\n")
    assert "lines 1 and 2 would both train in x: give each line" in refused(SWEEP, runs, variables=task)
    runs.write_text("a.toml\n\nb.toml\n")
    assert "lines 1 and 3 would both" in refused(SWEEP, runs, "--output.dir", "x", variables=task)


def test_an_open_quote_on_one_line_fails_that_run_only(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.write_text("a.toml\nb.toml 'open\n\n# comment\nc.toml --output.dir d\n")
    for task, words in (("1", b"a.toml\0--output.dir\0none\0"), ("3", b"c.toml\0--output.dir\0d\0")):
        command = [sys.executable, "-m", "slurm.sweep_run", str(runs), task]
        assert subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout == words


@pytest.mark.parametrize("name", ["SLURM_GPUS_ON_NODE", "SLURM_JOB_NUM_NODES", "SLURM_JOB_ID", "SLURM_RESTART_COUNT"])
@pytest.mark.parametrize("value", ["a[$(: >planted)]", "08", "-1"])
def test_what_bash_would_compute_with_is_a_number(tmp_path: Path, name: str, value: str) -> None:
    """An index in brackets is evaluated, and what it says is run."""
    (tmp_path / "distrib").mkdir()
    (tmp_path / "slurm").symlink_to(ROOT / "slurm")
    said = refused(TRAIN, RECIPE, variables={**JOB, name: value}, folder=tmp_path)
    assert f"{name} = '{value}' is not a number" in said
    assert not (tmp_path / "planted").exists()


def test_crosscheck(tmp_path: Path) -> None:
    assert "is no folder" in refused(CROSSCHECK, tmp_path / "none")
    assert str(tmp_path) in refused(CROSSCHECK, tmp_path)


@pytest.mark.xdist_group("slurm")
def test_jobs(cluster: Cluster) -> None:
    """SLURM sees that the job failed with 2."""
    gpus, one = ["--gpus-per-node=2"], {"RANKS_PER_NODE": "1"}
    jobs = {
        "no recipe": cluster.submit(TRAIN),
        "cannot be read": cluster.submit(TRAIN, "no recipe.toml"),
        "but the job has 2 GPU(s)": cluster.submit(TRAIN, RECIPE, options=gpus, environment={"RANKS_PER_NODE": "3"}),
        "train.sbatch: bad input, as said above": cluster.submit(TRAIN, RECIPE, *LENGTH, options=gpus, environment=one),
    }
    for line, job in jobs.items():
        state, said = cluster.wait(job), cluster.said(job)
        assert (state, cluster.show(job)["ExitCode"]) == ("FAILED", "2:0"), said
        assert line in said
        assert "bad input: " in said
