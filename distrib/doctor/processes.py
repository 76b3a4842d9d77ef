"""Looks at the processes of a run, how they talk to each other, and the batch system that starts them."""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from statistics import median

import torch
import torch.distributed as dist
from accelerate import Accelerator

from distrib.doctor.finding import Finding, fails, note, ok
from distrib.text import count

_ELEMENTS = 2**18  # about the gradient of the article's network, in float32
_TIMES = 20


def look(accelerator: Accelerator) -> Iterator[Finding]:
    """Yield findings on the processes that were started, after they have met."""
    ranks = accelerator.num_processes
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    threads = torch.get_num_threads()
    yield ok(
        "world",
        f"{count(ranks, 'process')}, {here} on this machine ({socket.gethostname()}), {count(threads, 'thread')} each",
    )
    yield _backends()
    if ranks > 1:
        yield _all_reduce(accelerator)
    else:
        yield from _alone()
    yield _batch_system()


def _backends() -> Finding:
    there = {"gloo": dist.is_gloo_available(), "NCCL": dist.is_nccl_available()}
    told = ", ".join(name for name, is_there in there.items() if is_there) or "none"
    if torch.cuda.device_count() > 1 and not there["NCCL"]:
        return fails("backends", f"{told}; several GPUs need NCCL", "install a PyTorch that is built with it")
    return ok("backends", told)


def _all_reduce(accelerator: Accelerator) -> Finding:
    """Time the sum of a gradient over all ranks. Every rank takes part."""
    gradient = torch.ones(_ELEMENTS, device=accelerator.device)
    seconds: list[float] = []
    for _ in range(_TIMES):
        gradient.fill_(1.0)
        began = time.perf_counter()
        dist.all_reduce(gradient)
        total = float(gradient[0])  # this waits for the device
        seconds.append(time.perf_counter() - began)
        if total != accelerator.num_processes:
            return fails(
                "all-reduce", f"ones of {accelerator.num_processes} ranks add up to {total:g}", "do not train on this"
            )
    backend = dist.get_backend()
    bytes_summed = gradient.numel() * gradient.element_size()
    return ok(
        "all-reduce",
        f"{bytes_summed / 2**20:.0f} MiB over {backend} in {1000 * median(seconds):.1f} ms (median of {_TIMES})",
    )


def _alone() -> Iterator[Finding]:
    if torch.cuda.device_count() > 1:
        yield note(
            "world",
            f"one process, and {torch.cuda.device_count()} GPUs",
            "accelerate launch --config_file launch/multi-gpu.yaml -m distrib.doctor looks at all of them",
        )
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        yield ok("ports", "processes of this machine can reach each other")
    except OSError as error:
        yield fails(
            "ports",
            f"no process can listen at 127.0.0.1, or be reached there ({error.strerror or error})",
            "look at the firewall and the sandbox: several ranks could not meet",
        )


def _batch_system() -> Finding:
    job = os.environ.get("SLURM_JOB_ID")
    if job is not None:
        nodes, tasks = (os.environ.get(f"SLURM_{name}", "?") for name in ("JOB_NUM_NODES", "NTASKS"))
        restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
        return ok("slurm", f"job {job}, nodes {nodes}, tasks {tasks}, restarts {restarts}")
    if shutil.which("sbatch") is None:
        return ok("slurm", "none here")
    return ok("slurm", "sbatch is here, and this is no job of it: slurm/train.sbatch starts one")
