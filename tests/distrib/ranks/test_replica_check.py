"""Tests what is compared, and how a difference is put."""

import pytest
import torch
from torch import nn

from distrib.checkpoint.state import capture
from distrib.optim.optimizer import SGD, Adam, OptimizerConfig, build_optimizer
from distrib.optim.update import Update
from distrib.ranks.replica_check import fingerprints, report

CPU = torch.device("cpu")
SAME = {"0.weight param": "a", "0.bias param": "b"}


def trained(config: OptimizerConfig, *, ema: float | None = None) -> tuple[nn.Module, Update]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2))
    optimizer = build_optimizer(config, module.named_parameters(), CPU)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    update = Update(module, optimizer, lambda _: 1.0, scaler, ema=ema)
    for _ in range(2):
        module(torch.ones(4, 3)).sum().backward()
        update.step()
        optimizer.zero_grad()
    return module, update


@pytest.mark.parametrize(
    ("config", "slots"),
    [
        (SGD(), ()),
        (SGD(momentum=0.9), ("momentum_buffer",)),
        (Adam(), ("step", "exp_avg", "exp_avg_sq")),
        (Adam(amsgrad=True, fused=False), ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")),
    ],
    ids=["sgd", "momentum", "adam", "amsgrad"],
)
def test_everything_that_decides_the_next_update_is_compared(config: OptimizerConfig, slots: tuple[str, ...]) -> None:
    tensors = {f"{name} {slot}" for name in ("0.weight", "0.bias") for slot in ("param", "ema", *slots)}
    counts = {"applied_updates", "skipped_steps", "lr", "optimizer", "scaler"}
    assert set(fingerprints(capture(trained(config, ema=0.9)[1]), CPU)) == tensors | {"n_averaged ema"} | counts


def test_equal_for_equal_and_each_piece_on_its_own() -> None:
    before = fingerprints(capture(trained(Adam(), ema=0.9)[1]), CPU)
    assert fingerprints(capture(trained(Adam(), ema=0.9)[1]), CPU) == before
    module, update = trained(Adam(), ema=0.9)
    average = update.average
    assert average is not None
    weight = next(module.parameters())
    pieces = {
        "0.weight param": weight,
        "0.weight exp_avg_sq": update.optimizer.state[weight]["exp_avg_sq"],
        "0.weight step": update.optimizer.state[weight]["step"],
        "0.weight ema": next(average.parameters()),
        "n_averaged ema": average.n_averaged,
    }
    for name, tensor in pieces.items():
        kept = tensor.detach().clone()
        with torch.no_grad():
            tensor.add_(1)
        after = fingerprints(capture(update), CPU)
        assert [each for each in after if after[each] != before[each]] == [name]
        with torch.no_grad():
            tensor.copy_(kept)
    update.applied += 1
    after = fingerprints(capture(update), CPU)
    assert [each for each in after if after[each] != before[each]] == ["applied_updates"]


def test_dtype_and_shape_are_part_of_what_is_held() -> None:
    module, update = trained(SGD(momentum=0.9))
    state = update.optimizer.state[next(module.parameters())]
    held = [fingerprints(capture(update), CPU)]
    for buffer in (torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(2, 3, dtype=torch.float16)):
        state["momentum_buffer"] = buffer
        held.append(fingerprints(capture(update), CPU))
    assert len({each["0.weight momentum_buffer"] for each in held}) == len(held)


@pytest.mark.parametrize(
    ("by_rank", "who"),
    [
        ("ab", "rank 0 and rank 1 differ in"),
        ("abb", "rank 0 differs from the other ranks in"),
        ("aab", "rank 2 differs from the other ranks in"),
        ("abcaa", "ranks 1, 2 differ from the other ranks in"),
        ("abc", "rank 0 and rank 1 and rank 2 differ in"),
        ("abab", "ranks 0, 2 and ranks 1, 3 differ in"),
        ("aabc", "ranks 0, 1 and rank 2 and rank 3 differ in"),
    ],
)
def test_the_ranks_against_the_majority_are_named(by_rank: str, who: str) -> None:
    said = report(12, [SAME | {"0.weight exp_avg": value} for value in by_rank], agreed_at=10)
    for word in (f"step 12: {who} 0.weight exp_avg,", "at step 10 all agreed", "no checkpoint", "hardware"):
        assert word in said
    assert "param," not in said


def test_the_first_comparison_says_that_it_is_the_first() -> None:
    assert "no earlier step of this run was compared" in report(1, [SAME, {}], agreed_at=None)


def test_a_piece_that_one_rank_lacks_is_named() -> None:
    more = SAME | {"0.bias momentum_buffer": "c"}
    assert "rank 1 differs from the other ranks in 0.bias momentum_buffer (absent on rank 1)," in report(
        5, [more, SAME, more], agreed_at=None
    )
    assert "0.bias momentum_buffer (absent on ranks 0, 2)," in report(5, [SAME, more, SAME], agreed_at=None)


def test_each_culprit_has_its_own_list_and_long_lists_are_cut() -> None:
    names = [f"{i}.weight param" for i in range(9)]
    same = dict.fromkeys(names, "a")
    held = [same, same | dict.fromkeys(names[:6], "b"), same | {names[8]: "c"}, same, same]
    said = report(5, held, agreed_at=None)
    assert f"rank 1 differs from the other ranks in {', '.join(names[:4])} and 2 more; " in said
    assert f"; rank 2 differs from the other ranks in {names[8]}," in said
