"""Checks and starts the processes of a run, and says what each may use."""

import contextlib
import hashlib
import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from distrib.errors import BadInput
from distrib.ranks.meeting import rendezvous
from distrib.system import cores
from distrib.text import count

# Decoding a folder of images or compiling may keep one rank busy for minutes while the others wait.
START_SECONDS = 600
_VECTOR = ("avx", "amx", "fma", "f16c", "sse4", "sve", "asimd", "bf16", "i8mm")
"""How the flags of a CPU begin by which libraries choose their kernels."""
_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_CBWR")
"""Environment: what the libraries may use of them. torch's own ATEN_CPU_CAPABILITY shows in what torch says."""


def check(wanted: int | None, environment: Mapping[str, str] = os.environ) -> None:
    """Raise BadInput, before any process waits for another, if this is not a world of `wanted` processes that can train.

    With None any number of processes will do, unless more than one was started or asked for, and each would train alone.
    """
    sharded = {
        "ACCELERATE_USE_FSDP": "FSDP",
        "ACCELERATE_USE_DEEPSPEED": "DeepSpeed (ZeRO)",
        "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    }
    for variable, name in sharded.items():
        if environment.get(variable, "false").lower() in ("1", "true", "yes"):
            raise BadInput(
                f"{name} was asked for ({variable}): this trainer is data parallel only, every rank holds all "
                "parameters; launch it with a config file from launch/, such as launch/multi-gpu.yaml"
            )
    _check_gpus(environment)
    there = int(environment.get("WORLD_SIZE", "1"))
    if wanted is None:
        _expect_no_strangers(environment)
        return
    if wanted == there:
        return
    hint = (
        f"note that `accelerate launch --cpu --num_processes {wanted}` silently starts one process; "
        f"two on a CPU are `accelerate launch --config_file launch/cpu-2.yaml -m distrib.train RECIPE`, "
        f"{wanted} on GPUs `accelerate launch --config_file launch/multi-gpu.yaml --num_processes {wanted} -m distrib.train "
        "RECIPE`"
        if wanted > 1
        else "one process is `accelerate launch --config_file launch/cpu.yaml -m distrib.train RECIPE` (launch/gpu.yaml on a GPU)"
    )
    raise BadInput(f"training.world_size = {wanted}, but this run has {count(there, 'process')}: {hint}")


def _expect_no_strangers(environment: Mapping[str, str]) -> None:
    """Raise BadInput if several processes were meant, and this one knows of no other."""
    if "WORLD_SIZE" in environment:
        return
    remedy = "start them with a config file from launch/, such as launch/cpu-2.yaml, or say --training.world_size 1"
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks > 1:
        raise BadInput(
            f"srun started {tasks} tasks (SLURM_STEP_NUM_TASKS), and each would train alone: use slurm/train.sbatch, which "
            "starts a launcher a node; or start one task (srun --ntasks 1)"
        )
    # Accelerate's launcher of a single process sets an address only if it was asked for several.
    if "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment:
        raise BadInput(
            "accelerate launch was asked for several processes and started one, as it does with --cpu and without "
            f"--multi_gpu, whatever --num_processes says (MASTER_ADDR is set, and WORLD_SIZE is not): {remedy}"
        )
    for variable in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"):
        if environment.get(variable, "1") not in ("", "1"):
            raise BadInput(
                f"mpirun started several processes ({variable} = {environment[variable][:20]}), and each would train "
                f"alone: {remedy}"
            )


def _check_gpus(environment: Mapping[str, str]) -> None:
    """Raise BadInput if there are GPUs, but not one for each process. A machine without any trains on its CPU."""
    here, found = int(environment.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    hidden = environment.get("CUDA_VISIBLE_DEVICES", "all").split(",")[0] in ("", "-1")  # the CPU is wanted
    given = 0 if hidden else int(environment.get("SLURM_GPUS_ON_NODE", "0"))
    if found < here and (found or given):
        allocated = f", and SLURM gave this job {given}" if given else ""
        raise BadInput(
            f"{count(here, 'process')} {'was' if here == 1 else 'were'} started on {socket.gethostname()}, where PyTorch sees "
            f"{count(found, 'GPU')}{allocated}: "
            "start one process a GPU, ask for as many GPUs (sbatch --gpus-per-node), or set CUDA_VISIBLE_DEVICES to nothing "
            "to train on the CPU; `nvidia-smi` and `python -c 'import torch; print(torch.version.cuda)'` say what is there"
        )


def start(threads: int | None, *, deterministic: bool, timeout: int = START_SECONDS) -> Accelerator:
    """Join the process group and set this process's threads.

    With None for `threads` the ranks of this machine share out its cores. `timeout` is how many seconds ranks wait for each
    other.

    Raises BadInput when Accelerate did not join the processes that were launched, and PeerLost when not all of them come.
    """
    threads = threads or default_threads()
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # else Accelerate sets 1, and says so on every rank
    if "LOCAL_RANK" in os.environ:  # Accelerate then joins a process group, even if this is its only process
        rendezvous(os.environ, timeout)
    try:
        accelerator = _accelerator()
    except ValueError as error:  # it reads dozens of variables
        raise BadInput(
            f"Accelerate does not take what the environment says: {error}; start with accelerate launch"
        ) from None
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise BadInput(
            f"{launched} processes were launched, but Accelerate sees {accelerator.num_processes}: "
            "check the launcher's config file against those in launch/"
        )
    torch.set_num_threads(threads)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    return accelerator


def _accelerator() -> Accelerator:
    """Join the process group. Accelerate steps and schedules nothing here.

    Raises ValueError for an environment that it cannot read.
    """
    return Accelerator(
        # Without this, and without ACCELERATE_USE_CPU in the environment (which the launcher sets for one
        # process only), every rank of a machine without CUDA would be a world of its own, silently.
        cpu=not torch.cuda.is_available(),
        mixed_precision="no",  # autocast and loss scaling are in precision.py
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[
            # No find_unused_parameters: every parameter takes part in every step, and the search costs a pass.
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
        ],
    )


def default_threads(environment: Mapping[str, str] = os.environ) -> int:
    """Return how many threads this process may use: its cores, shared out among the ranks of this machine.

    The launchers set OMP_NUM_THREADS=1 silently, so the variable says nothing about anyone's wish.
    """
    there = cores()
    there = min(there, int(environment.get("SLURM_CPUS_PER_TASK", there)))  # SLURM need not enforce what it gives
    return max(1, there // int(environment.get("LOCAL_WORLD_SIZE", "1")))


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} of {os.cpu_count()} cores a process"


def synchronize(device: torch.device) -> None:
    """Wait until the device has computed all that it was given. A CPU has computed it already."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def hardware(
    device: torch.device, environment: Mapping[str, str] = os.environ, cpu_info: Path = Path("/proc/cpuinfo")
) -> str:
    """Return in a few words what decides which kernels run, and so the last bits: the GPU, or the CPU's instruction set.

    The instruction set is that of the CPU, and what the environment lets torch and its libraries use of it.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in cpu_info.read_text(errors="replace").split("\n\n", 1)[0].splitlines():
            name, _, value = line.partition(":")
            facts[name.strip()] = value.strip()
    vector = [flag for flag in facts.get("flags", facts.get("Features", "")).split() if flag.startswith(_VECTOR)]
    words = [facts.get("vendor_id", ""), torch.backends.cpu.get_cpu_capability()]
    words.append(f"flags {hashlib.sha256(' '.join(sorted(vector)).encode()).hexdigest()[:8]}")
    words += [f"{name}={environment[name]}" for name in _LIMITS if environment.get(name)]
    return " ".join(filter(None, words))[:200]


def shorten_timeout(accelerator: Accelerator, seconds: int) -> None:
    """Let a collective fail, from here on, when a rank does not answer within `seconds`."""
    if accelerator.num_processes == 1:
        return
    set_timeout: Any = getattr(dist, "set_timeout", None)  # torch >= 2.14
    if set_timeout is None:
        set_timeout = dist.distributed_c10d._set_pg_timeout  # pyright: ignore[reportPrivateUsage, reportDeprecated]
    set_timeout(timedelta(seconds=seconds), None)
