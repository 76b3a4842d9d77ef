"""The learning rates of torch's own schedulers, and hypothesis strategies for every kind of schedule."""

from collections.abc import Callable

import torch
from hypothesis import strategies as st

from distrib.optim.schedule import Constant, Cosine, Exponential, MultiStep, OneCycle, Step

Scheduler = torch.optim.lr_scheduler.LRScheduler


def torch_rates(make: Callable[[torch.optim.Optimizer], Scheduler], updates: int, *, every: int = 1) -> list[float]:
    """Return the learning rate that torch uses in each update if its scheduler steps after every `every` updates."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
    scheduler = make(optimizer)
    rates: list[float] = []
    for update in range(1, updates + 1):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if update % every == 0 and update < updates:
            scheduler.step()
    return rates


_units = st.sampled_from(["updates", "epochs"])
_fractions = st.floats(0.01, 1.0)
configs = st.one_of(
    st.just(Constant()),
    st.builds(Step, step_size=st.integers(1, 20), gamma=_fractions, unit=_units),
    st.builds(MultiStep, milestones=st.lists(st.integers(1, 50), min_size=1).map(tuple), gamma=_fractions, unit=_units),
    st.builds(Exponential, gamma=_fractions, unit=_units),
    st.builds(Cosine, warmup=st.integers(0, 3), start_factor=_fractions, end_factor=st.floats(0, 1), unit=_units),
    st.builds(
        OneCycle,
        pct_start=st.floats(0.01, 0.99),
        div_factor=st.floats(1, 100),
        final_div_factor=st.floats(1, 1e6),
        anneal_strategy=st.sampled_from(["cos", "linear"]),
    ),
)
