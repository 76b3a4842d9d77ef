"""Refuses a start whose ranks were not started alike.

Ranks with another seed, or other images under the same path, train without an error to weights that belong to no run; ranks
with another interval between comparisons wait for each other for ever. Only the ranks themselves can find that out, before they
train.
"""

from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator

from distrib.errors import BadInput
from distrib.ranks.collectives import all_gather_json

_SHOWN = 4  # facts that differ


def require_same(accelerator: Accelerator, facts: Mapping[str, Any]) -> None:
    """Raise BadInput on every rank unless the facts, plain JSON by name, are the same on all of them."""
    everywhere: list[dict[str, Any]] = all_gather_json(accelerator, dict(facts))
    problems: list[str] = []
    for name in dict.fromkeys(name for each in everywhere for name in each):
        here = [each.get(name) for each in everywhere]
        other = next((rank for rank, value in enumerate(here) if value != here[0]), None)
        if other is not None:
            problems.append(f"{name} = {here[0]!r} on rank 0, but {here[other]!r} on rank {other}")
    if problems:
        more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise BadInput(
            f"the ranks were started differently: {'; '.join(problems[:_SHOWN])}{more}. Give the same command, recipe and "
            "images on every machine"
        )
