"""Lets ranks tell each other results, errors and requests to stop. Every rank takes part in every call, in the same order."""

import json
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional

from distrib.errors import BadInput
from distrib.job.stop import Stopped, StopRequest

T = TypeVar("T")


def all_gather_json(accelerator: Accelerator, value: Any) -> list[Any]:
    """Return every rank's value, by rank. They travel as JSON, because torch's own object collectives unpickle."""
    if accelerator.num_processes == 1:
        return [value]
    data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(accelerator.device)
    lengths = [int(length) for length in gather(accelerator, torch.tensor(len(data), device=data.device))]
    texts = gather(accelerator, functional.pad(data, (0, max(lengths) - len(data))))
    return [json.loads(bytes(text[:length].cpu().numpy())) for text, length in zip(texts, lengths, strict=True)]


def gather(accelerator: Accelerator, mine: Tensor) -> Tensor:
    """Return every rank's tensor, all of one shape, by rank: (ranks, …)."""
    return cast(Tensor, accelerator.gather(mine[None]))


def agree_on_error(accelerator: Accelerator, problem: str | None) -> None:
    """Raise BadInput on every rank if any rank has a problem, in the words of the lowest such rank."""
    for said in all_gather_json(accelerator, problem):
        if said is not None:
            raise BadInput(said)


def on_every_rank(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Do `work` on every rank and return this rank's result. The BadInput of any rank is raised on all of them."""
    result: list[T] = []
    problem: str | None = None
    try:
        result.append(work())
    except BadInput as error:
        problem = str(error)
    agree_on_error(accelerator, problem)
    return result[0]


def on_main(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Do `work` on rank 0 only; return its result (plain JSON), or raise its BadInput, on every rank."""
    result = on_every_rank(accelerator, lambda: work() if accelerator.is_main_process else None)
    return all_gather_json(accelerator, result)[0]


def main_first(accelerator: Accelerator, work: Callable[[], T]) -> T:
    """Do `work` on the first rank of each machine, then on its others, so that caches are filled once.

    A BadInput of any rank is raised on all of them, so that nobody waits for a rank that gave up.
    """
    first = accelerator.is_local_main_process
    early = on_every_rank(accelerator, lambda: [work()] if first else [])
    late = on_every_rank(accelerator, lambda: [] if first else [work()])
    return (early + late)[0]


def reason_to_stop(accelerator: Accelerator, request: StopRequest) -> str | None:
    """Return on every rank why the lowest rank that was asked to stop was asked; None if no rank was."""
    return next((reason for reason in all_gather_json(accelerator, request.reason) if reason is not None), None)


def raise_if_stop_requested(accelerator: Accelerator, request: StopRequest, step: int) -> None:
    """Raise Stopped on every rank if any was asked to stop. For the stages of a start, when there is nothing to save yet."""
    reason = reason_to_stop(accelerator, request)
    if reason is not None:
        raise Stopped(reason, "before training began; the same command starts it", step)
