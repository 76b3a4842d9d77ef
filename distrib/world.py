"""The processes of a run: who takes part, what each may use, and how they agree on an error."""

import json
import os
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs

from distrib.errors import BadInput
from distrib.training import TrainingConfig

T = TypeVar("T")

# Decoding a folder of images or compiling may keep one rank busy for minutes while the others wait.
START_SECONDS = 600


def rank_from(environment: Mapping[str, str] = os.environ) -> int:
    """This process's rank before any process group exists."""
    return int(environment.get("RANK", "0"))


def check(config: TrainingConfig, environment: Mapping[str, str] = os.environ) -> None:
    """Refuse, before any process waits for another, a world that is not the one asked for."""
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
    there, wanted = int(environment.get("WORLD_SIZE", "1")), config.world_size
    if wanted is None or wanted == there:
        return
    hint = (
        f"note that `accelerate launch --cpu --num_processes {wanted}` silently starts one process; "
        f"two on a CPU are `accelerate launch --config_file launch/cpu-2.yaml -m distrib.train RECIPE`, "
        f"{wanted} on GPUs `accelerate launch --config_file launch/multi-gpu.yaml --num_processes {wanted} -m distrib.train RECIPE`"
        if wanted > 1
        else "one process is `accelerate launch --config_file launch/cpu.yaml -m distrib.train RECIPE` (launch/gpu.yaml on a GPU)"
    )
    raise BadInput(f"training.world_size = {wanted}, but this run has {there} process(es): {hint}")


def start(config: TrainingConfig) -> Accelerator:
    """Join the process group and set this process's threads. Accelerate steps and schedules nothing here."""
    accelerator = Accelerator(
        mixed_precision="no",  # autocast and loss scaling are in precision.py
        step_scheduler_with_optimizer=False,
        kwargs_handlers=[
            # No find_unused_parameters: every parameter takes part in every step, and the search costs a pass.
            DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=timedelta(seconds=START_SECONDS)),
        ],
    )
    torch.set_num_threads(config.threads or default_threads())
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    return accelerator


def default_threads(environment: Mapping[str, str] = os.environ) -> int:
    """The cores this process may use, shared among the ranks of this machine.

    The launchers set OMP_NUM_THREADS=1 silently, so the variable says nothing about anyone's wish.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(environment.get("LOCAL_WORLD_SIZE", "1")))


def main_first(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """`work` on the first rank of each machine, then on its others: caches are filled once.

    A BadInput of any first rank becomes everybody's, so that nobody waits for a rank that gave up.
    """
    result: list[T] = []
    problem: str | None = None
    for turn in (True, False):
        if accelerator.is_local_main_process is turn:
            try:
                result.append(work())
            except BadInput as error:
                problem = str(error)
        agree_on_error(accelerator, problem)
    return result[0]


def on_main(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """`work` on rank 0 only; its result (plain JSON) or its BadInput on every rank."""
    result: T | None = None
    problem: str | None = None
    if accelerator.is_main_process:
        try:
            result = work()
        except BadInput as error:
            problem = str(error)
    if accelerator.num_processes > 1:
        box = [json.dumps([result, problem])]
        dist.broadcast_object_list(box)
        result, problem = json.loads(box[0])
    if problem is not None:
        raise BadInput(problem)
    return result  # pyright: ignore[reportReturnType] (JSON gives back what it was given)


def agree_on_error(accelerator: Accelerator, problem: str | None) -> None:
    """Raise BadInput on every rank if any rank has a problem; the lowest such rank's words win."""
    problems: list[str | None] = [problem]
    if accelerator.num_processes > 1:
        problems = [None] * accelerator.num_processes
        dist.all_gather_object(problems, problem)
    for said in problems:
        if said is not None:
            raise BadInput(said)


def shorten_timeout(accelerator: Accelerator, seconds: int) -> None:
    """From here on a rank that does not answer within `seconds` is taken for dead."""
    if accelerator.num_processes == 1:
        return
    set_timeout: Any = getattr(dist, "set_timeout", None)  # torch >= 2.14
    if set_timeout is None:
        set_timeout = dist.distributed_c10d._set_pg_timeout  # pyright: ignore[reportPrivateUsage, reportDeprecated]
    set_timeout(timedelta(seconds=seconds), None)
