"""Every file that comes in launch/."""

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands import launch
from accelerate.commands.config.config_args import ClusterConfig

from distrib.config.load import load
from distrib.optim.optimizer import SGD
from distrib.optim.schedule import Constant
from distrib.training.recipe import RunConfig
from tests.support import ROOT

accelerates: Any = launch  # typed in part
LAUNCH = ROOT / "launch"
RECIPES = sorted((LAUNCH / "recipes").glob("*.toml"))
MACHINES = sorted(LAUNCH.glob("*.yaml"))
ARTICLE = [path for path in RECIPES if path.stem.startswith("article")]


def name(path: Path) -> str:
    return path.name


def test_there_are_recipes_and_machines() -> None:
    assert {"quickstart.toml", "article-sgd.toml", "article-adam.toml"} <= {path.name for path in RECIPES}
    assert {"cpu.yaml", "cpu-2.yaml", "gpu.yaml", "multi-gpu.yaml", "multi-node.yaml"} <= {p.name for p in MACHINES}


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_loads_and_survives_a_round_trip(path: Path, tmp_path: Path) -> None:
    config = load(RunConfig, path)
    (tmp_path / "again.toml").write_text(config.to_toml(), encoding="utf-8")
    assert load(RunConfig, tmp_path / "again.toml") == config


@pytest.mark.parametrize("path", RECIPES, ids=name)
@pytest.mark.parametrize("world_size", ["1", "2", "8", "32"])
def test_recipe_takes_the_overrides_of_the_launch_files(path: Path, world_size: str) -> None:
    config = load(RunConfig, path, ["--training.world_size", world_size, "--output.dir", "/shared/run"])
    assert config.training.world_size == int(world_size)
    assert config.training.batch_size >= int(world_size)


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_recipe_says_what_it_is_for(path: Path) -> None:
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("path", ARTICLE, ids=name)
def test_article_recipe_keeps_the_articles_settings(path: Path) -> None:
    config = load(RunConfig, path)
    assert config.optimizer.lr == 0.01
    assert config.training.epochs == 20
    assert config.optimizer.weight_decay == 0
    assert config.schedule == Constant()
    assert not config.data.augment
    assert config.training.last_batch == "mask"


def test_article_sgd_is_plain() -> None:
    assert load(RunConfig, LAUNCH / "recipes/article-sgd.toml").optimizer == SGD(lr=0.01)


def test_article_adam_is_adam() -> None:
    assert load(RunConfig, LAUNCH / "recipes/article-adam.toml").optimizer.name == "adam"


def machine(path: Path) -> ClusterConfig:
    return ClusterConfig.from_yaml_file(str(path))


@pytest.mark.parametrize("path", MACHINES, ids=name)
def test_accelerate_reads_the_machine(path: Path) -> None:
    config = machine(path)
    assert config.num_processes >= 1
    assert config.num_processes % config.num_machines == 0
    assert (config.distributed_type == "NO") == (config.num_processes == 1)
    assert config.mixed_precision in (None, "no"), "the recipe decides on the precision"


@pytest.mark.parametrize(
    ("file", "processes", "machines", "cpu"),
    [
        ("cpu.yaml", 1, 1, True),
        ("cpu-2.yaml", 2, 1, True),
        ("gpu.yaml", 1, 1, False),
        ("multi-gpu.yaml", 8, 1, False),
        ("multi-node.yaml", 32, 4, False),
    ],
)
def test_machine_is_what_its_name_says(file: str, processes: int, machines: int, cpu: bool) -> None:
    config = machine(LAUNCH / file)
    assert (config.num_processes, config.num_machines) == (processes, machines)
    assert (set((config.gpu_ids or "all").split(",")) == {"-1"}) == cpu, "those of the CPU hide the GPUs"


@pytest.mark.parametrize("path", MACHINES, ids=name)
def test_the_launcher_has_nothing_to_announce(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that the file leaves to Accelerate would be a notice of four lines at every start."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    said: list[str] = []
    monkeypatch.setattr(accelerates.logger, "warning", said.append)
    given = accelerates.launch_command_parser().parse_args(["--config_file", str(path), "train.py"])
    accelerates._validate_launch_command(given)
    assert not said


@pytest.mark.parametrize("path", [path for path in MACHINES if machine(path).num_processes > 1], ids=name)
def test_several_processes_are_made_sure_of(path: Path) -> None:
    """The command shown in the file passes the number of processes that the file asks for."""
    assert f"--training.world_size {machine(path).num_processes}" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", MACHINES, ids=name)
def test_the_command_shown_names_files_that_exist(path: Path) -> None:
    words = path.read_text(encoding="utf-8").replace("\\", " ").split()
    shown = {word for word in words if word.startswith("launch/")}
    assert f"launch/{path.name}" in shown
    assert any(word.endswith(".toml") for word in shown)
    assert all((LAUNCH.parent / word).is_file() for word in shown)


def auto(tmp_path: Path, gpus: int, *arguments: str) -> list[str]:
    """The arguments that auto.sh hands to Python on a machine with `gpus` GPUs, after it has asked for their number."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && echo {gpus} || printf "%s\\n" "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [str(LAUNCH / "auto.sh"), *arguments]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize(("gpus", "file"), [(0, "cpu.yaml"), (1, "gpu.yaml"), (4, "multi-gpu.yaml")])
def test_auto_picks_the_machine_and_passes_arguments_on(tmp_path: Path, gpus: int, file: str) -> None:
    said = auto(tmp_path, gpus, "my recipe.toml", "--output.dir", "a b")
    assert said[:2] == ["-m", "distrib.launcher"]
    assert Path(said[said.index("--config_file") + 1]).resolve() == LAUNCH / file
    module = said.index("-m", 2)
    assert said[module + 1 : module + 5] == ["distrib.train", "my recipe.toml", "--output.dir", "a b"]
    several = gpus > 1
    assert said[module + 5 :] == (["--training.world_size", str(gpus)] if several else [])
    assert ("--num_processes" in said) == several
    if several:
        assert said[said.index("--num_processes") + 1] == str(gpus)


def test_auto_is_stopped_while_it_looks_for_gpus(tmp_path: Path) -> None:
    (tmp_path / "python").write_text('#!/bin/sh\nkill -TERM "$PPID"\n')
    (tmp_path / "python").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.defpath}"}
    command = ["bash", LAUNCH / "auto.sh", "quickstart"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    said = "stopped on request before the run began; the same command starts it\n"
    assert (result.returncode, result.stderr) == (75, said)
