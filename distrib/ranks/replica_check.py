"""Checks that all ranks hold the same weights, optimizer, moving average and counts, bit for bit.

Data parallelism rests on it and nothing else looks: a rank that went astray sends gradients of other
weights into every sum, the loss still falls, and rank 0's weights are saved.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor

from distrib.errors import RunFault
from distrib.ranks.collectives import all_gather_json
from distrib.ranks.digests import digests
from distrib.text import listed

Captured = tuple[Mapping[str, Mapping[str, Tensor]], Mapping[str, Any]]
"""What a checkpoint would hold: tensors by part, such as optimizer, and by name; and the values beside them."""

_SHOWN = 4  # names of one list


class ReplicaCheck:
    """Compares, every so many steps and before each checkpoint, what a checkpoint of each rank would hold."""

    def __init__(self, accelerator: Accelerator, *, capture: Callable[[], Captured], every: int | None) -> None:
        """`capture` gives what this rank holds now. A world of one and `every=None` compare nothing."""
        self._accelerator, self._capture = accelerator, capture
        self._every = every if accelerator.num_processes > 1 else None
        self._agreed_at: int | None = None
        self.made = 0  # comparisons that found no difference

    def after_step(self, step: int, *, saves: bool) -> None:
        """Compare if it is time to. `saves` says that a checkpoint of this step follows.

        Raises RunFault, on every rank alike, when ranks differ.
        """
        if self._every is None or (step % self._every and not saves):
            return
        held = fingerprints(self._capture(), self._accelerator.device)
        if not _same_everywhere(held, self._accelerator.device):
            raise RunFault(report(step, all_gather_json(self._accelerator, held), self._agreed_at))
        self._agreed_at = step
        self.made += 1


def fingerprints(captured: Captured, device: torch.device) -> dict[str, str]:
    """Return what decides the next update, by name and slot (`0.weight exp_avg`): dtype, shape and digest, or the value."""
    parts, values = captured
    tensors = {_label(part, key): tensor for part, held in parts.items() for key, tensor in held.items()}
    found = [int(digest) for digest in digests(list(tensors.values()), device).cpu()]
    described = {
        name: f"{tensor.dtype} {tuple(tensor.shape)} {digest}"
        for (name, tensor), digest in zip(tensors.items(), found, strict=True)
    }
    return described | {name: str(value) for name, value in values.items()}


def report(step: int, held: Sequence[Mapping[str, str]], agreed_at: int | None) -> str:
    """Say in words which ranks differ, in what, since when, and perhaps why. `held` are the fingerprints by rank."""
    differences: defaultdict[str, list[str]] = defaultdict(list)
    for name in dict.fromkeys(name for each in held for name in each):
        here = [each.get(name) for each in held]
        if len(set(here)) > 1:
            absent = [rank for rank, value in enumerate(here) if value is None]
            differences[_who(here)].append(f"{name} (absent on {_ranks(absent)})" if absent else name)
    found = "; ".join(f"{who} in {listed(names, _SHOWN)}" for who, names in differences.items())
    since = "no earlier step of this run was compared" if agreed_at is None else f"at step {agreed_at} all agreed"
    return (
        f"step {step}: {found}, where all ranks must hold the same bytes; {since}. All ranks stopped and "
        "no checkpoint of this step was written; earlier ones are kept, and the same command continues from the newest. "
        "Likely causes: code that does not run alike on every rank (random numbers, a parameter changed on one rank); "
        "machines of different kinds, whose arithmetic may differ in the last bit; memory or hardware that fails: if the "
        "same rank is named again, take its machine out"
    )


def _same_everywhere(held: Mapping[str, str], device: torch.device) -> bool:
    """Return whether `held` is the same on every rank, by one all-reduce of a hash."""
    sha256 = hashlib.sha256(json.dumps(held, sort_keys=True).encode()).digest()
    mine = torch.frombuffer(bytearray(sha256), dtype=torch.int64).to(device)
    extremes = torch.cat((mine, ~mine))  # ~ turns the order round: one maximum gives the minimum too
    dist.all_reduce(extremes, op=dist.ReduceOp.MAX)
    highest, lowest = extremes[: len(mine)], ~extremes[len(mine) :]
    return torch.equal(highest, lowest)


def _label(part: str, key: str) -> str:
    """Return the parameter's name and, behind it, `param`, `ema` or torch's name of an optimizer's slot."""
    if part == "optimizer":
        slot, _, name = key.partition("/")
        return f"{name} {slot}"
    return f"{key} param" if part == "model" else f"{key.removeprefix('module.')} ema"


def _who(here: Sequence[str | None]) -> str:
    """Name the ranks that differ from the majority, or all camps where there is none, as between two ranks."""
    camps: dict[str | None, list[int]] = {}
    for rank, value in enumerate(here):
        camps.setdefault(value, []).append(rank)
    value, size = Counter(here).most_common(1)[0]
    if 2 * size <= len(here):
        return f"{' and '.join(map(_ranks, camps.values()))} differ"
    others = [rank for rank, its in enumerate(here) if its != value]
    return f"{_ranks(others)} {'differs' if len(others) == 1 else 'differ'} from the other ranks"


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
