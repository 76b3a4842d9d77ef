"""Who may take part, and with how many threads."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distrib.errors import BadInput
from distrib.ranks import world
from distrib.text import count
from tests.support import ROOT

cores = len(os.sched_getaffinity(0))


def refusal(work: Callable[[], object]) -> str:
    with pytest.raises(BadInput) as caught:
        work()
    return str(caught.value)


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("ACCELERATE_USE_FSDP", "FSDP"),
        ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed"),
        ("ACCELERATE_USE_MEGATRON_LM", "Megatron-LM"),
    ],
)
@pytest.mark.parametrize("value", ["true", "True", "1", "yes"])
def test_sharding_is_refused_by_name(variable: str, name: str, value: str) -> None:
    said = refusal(lambda: world.check(None, {variable: value}))
    for word in (name, variable, "data parallel", "launch/multi-gpu.yaml"):
        assert word in said


@pytest.mark.parametrize("value", ["false", "0", ""])
def test_sharding_that_is_off_is_no_matter(value: str) -> None:
    world.check(None, {"ACCELERATE_USE_FSDP": value, "ACCELERATE_USE_DEEPSPEED": value})


_LAUNCHED = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}
_SEVERAL = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost"}


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (_LAUNCHED | {"MASTER_ADDR": "127.0.0.1"}, ("accelerate launch", "started one", "launch/cpu-2.yaml")),
        ({"SLURM_STEP_NUM_TASKS": "3", "SLURM_PROCID": "1"}, ("srun started 3 tasks", "slurm/train.sbatch")),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, ("mpirun", "OMPI_COMM_WORLD_SIZE = 4", "launch/cpu-2.yaml")),
    ],
)
def test_processes_that_would_train_alone_are_refused(environment: dict[str, str], words: tuple[str, ...]) -> None:
    said = refusal(lambda: world.check(None, environment))
    for word in words:
        assert word in said
    world.check(None, environment | _SEVERAL)  # these know of each other
    world.check(1, environment)  # this one is meant to be alone


@pytest.mark.parametrize("environment", [_LAUNCHED, {"MASTER_ADDR": "somewhere"}, {"SLURM_STEP_NUM_TASKS": "1"}])
def test_one_process_that_was_asked_for_trains(environment: dict[str, str]) -> None:
    world.check(None, environment)


@pytest.mark.parametrize("there", [None, 1, 2, 7])
@pytest.mark.parametrize("wanted", [None, 1, 2, 7])
def test_only_the_world_that_was_asked_for(wanted: int | None, there: int | None) -> None:
    environment = {} if there is None else {"WORLD_SIZE": str(there)}
    if wanted in (None, there or 1):
        world.check(wanted, environment)
        return
    said = refusal(lambda: world.check(wanted, environment))
    for word in (f"training.world_size = {wanted}", count(there or 1, "process"), "accelerate launch --config_file"):
        assert word in said
    if wanted == 1:
        assert "launch/cpu.yaml" in said
    else:
        for word in (
            "silently starts one process",
            "launch/cpu-2.yaml",
            f"launch/multi-gpu.yaml --num_processes {wanted}",
        ):
            assert word in said


@pytest.mark.parametrize("file", ["launch/multi-gpu.yaml", "launch/cpu.yaml", "launch/cpu-2.yaml", "launch/gpu.yaml"])
def test_launch_files_that_the_messages_name_are_there(file: str) -> None:
    assert (ROOT / file).is_file()


@pytest.mark.parametrize("ranks", [1, 2, 3, 1000])
def test_ranks_of_a_machine_share_its_cores(ranks: int) -> None:
    threads = world.default_threads({"LOCAL_WORLD_SIZE": str(ranks)})
    assert threads == max(1, cores // ranks)


def test_one_process_takes_all_cores_whatever_the_launcher_set() -> None:
    assert world.default_threads({}) == cores
    assert world.default_threads({"OMP_NUM_THREADS": "1"}) == cores


@pytest.mark.parametrize(("given", "threads"), [("1", 1), ("100000", cores)])
def test_no_more_threads_than_slurm_gave(given: str, threads: int) -> None:
    assert world.default_threads({"SLURM_CPUS_PER_TASK": given}) == threads


GPUS = {"SLURM_GPUS_ON_NODE": "2", "CUDA_VISIBLE_DEVICES": "0,1"}


@pytest.mark.parametrize(("found", "ranks", "environment"), [(0, 2, GPUS), (0, 1, GPUS), (1, 2, GPUS), (4, 8, {})])
def test_more_processes_than_gpus(
    found: int, ranks: int, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    said = refusal(lambda: world.check(None, environment | {"LOCAL_WORLD_SIZE": str(ranks)}))
    for word in (count(ranks, "process"), count(found, "GPU"), "--gpus-per-node", socket.gethostname()):
        assert word in said


@pytest.mark.parametrize(
    ("found", "ranks", "environment"),
    [(0, 4, {}), (2, 2, GPUS), (1, 1, {}), (0, 2, GPUS | {"CUDA_VISIBLE_DEVICES": ""}),
     (0, 2, GPUS | {"CUDA_VISIBLE_DEVICES": "-1,-1"})],
)  # fmt: skip
def test_a_gpu_each_or_the_cpu_for_all(
    found: int, ranks: int, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    world.check(None, environment | {"LOCAL_WORLD_SIZE": str(ranks)})


CPU_INFO = """processor : 0
vendor_id : {vendor}
flags : fpu avx avx2 {flags}

processor : 1
flags : others
"""


def test_the_instruction_set_has_a_name_of_its_own(tmp_path: Path) -> None:
    """Another vendor, another flag that libraries look at, or a limit in the environment: each is another name."""
    machines: list[tuple[str, str, dict[str, str]]] = [
        ("GenuineIntel", "", {}),
        ("AuthenticAMD", "", {}),
        ("GenuineIntel", "avx512f", {}),
    ]
    machines += [("GenuineIntel", "", {"ONEDNN_MAX_CPU_ISA": "AVX2"})]
    names: list[str] = []
    for number, (vendor, flags, environment) in enumerate(machines):
        file = tmp_path / str(number)
        file.write_text(CPU_INFO.format(vendor=vendor, flags=flags))
        names.append(world.hardware(torch.device("cpu"), environment, file))
    assert len(set(names)) == len(machines)
    assert names[0].startswith(f"GenuineIntel {torch.backends.cpu.get_cpu_capability()} flags ")
    assert names[3].endswith(" ONEDNN_MAX_CPU_ISA=AVX2")
    again = tmp_path / "again"
    again.write_text(CPU_INFO.format(vendor="GenuineIntel", flags="aes sse"))
    assert world.hardware(torch.device("cpu"), {}, again) == names[0]
    assert world.hardware(torch.device("cpu"), {}, tmp_path / "absent")


def test_what_torch_may_not_use_is_seen() -> None:
    script = "import torch; from distrib.ranks import world; print(world.hardware(torch.device('cpu')))"
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert " DEFAULT " in f" {found.stdout} "
