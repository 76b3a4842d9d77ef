"""Tests the order of the images, and how ranks and parts share each batch."""

from collections import Counter
from dataclasses import replace
from typing import cast

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from distrib.data.batches.plan import Plan
from distrib.errors import BadInput

CPU = torch.device("cpu")
WORLDS = (1, 2, 3, 4, 8)

PLAN = Plan(num_images=100, batch_size=24, last_batch="drop", accumulate=1, seed=0, rank=0, world_size=1)
ONE_LEFT = Plan(num_images=25, batch_size=24, last_batch="mask", accumulate=3, seed=0, rank=0, world_size=8)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    batch_size = draw(st.integers(1, 24))
    accumulate = draw(st.sampled_from([n for n in range(1, batch_size + 1) if batch_size % n == 0]))
    return Plan(
        num_images=draw(st.integers(batch_size, 80)),
        batch_size=batch_size,
        last_batch=draw(st.sampled_from(("drop", "mask"))),
        accumulate=accumulate,
        seed=draw(st.integers(0, 2**63 - 1)),
        rank=0,
        world_size=draw(st.sampled_from([world for world in WORLDS if world <= batch_size // accumulate])),
    )


def ints(tensor: Tensor) -> list[int]:
    return cast("list[int]", tensor.tolist())


def steps_of(plan: Plan, epoch: int) -> range:
    return range((epoch - 1) * plan.steps_per_epoch + 1, epoch * plan.steps_per_epoch + 1)


def epoch_order(plan: Plan, epoch: int) -> list[int]:
    return ints(torch.cat([plan.global_batch(step, CPU) for step in steps_of(plan, epoch)]))


def all_shares(plan: Plan, step: int) -> list[list[tuple[Tensor, Tensor]]]:
    """By rank, then by part."""
    return [list(replace(plan, rank=rank).shares(step, CPU)) for rank in range(plan.world_size)]


def check_shares(plan: Plan, step: int) -> None:
    batch = plan.global_batch(step, CPU)
    ranks = all_shares(plan, step)
    seen: Counter[int] = Counter()
    total = 0.0
    for parts in ranks:
        assert len(parts) == plan.accumulate
        for index, weights in parts:
            assert index.dtype == torch.int64
            assert weights.dtype == torch.float32
            assert len(index) == len(weights) == plan.share
            assert ((index >= 0) & (index < plan.num_images)).all(), "a filler is no image"
            real = weights > 0
            assert weights[real].tolist() == pytest.approx([1 / len(batch)] * int(real.sum()), rel=1e-6)
            assert (weights[~real] == 0).all()
            seen.update(ints(index[real]))
            total += weights.double().sum().item()
    assert seen == Counter(ints(batch))
    assert total == pytest.approx(1, abs=1e-5)
    for part in range(plan.accumulate):
        counts = [int((parts[part][1] > 0).sum()) for parts in ranks]
        assert max(counts) - min(counts) <= 1, "the ranks' work is uneven"


@settings(max_examples=40, deadline=None)
@given(plan=plans(), epoch=st.integers(1, 50))
@example(plan=ONE_LEFT, epoch=2)
def test_an_epoch_uses_each_image_at_most_once(plan: Plan, epoch: int) -> None:
    order = epoch_order(plan, epoch)
    assert len(set(order)) == len(order)
    assert set(order) <= set(range(plan.num_images))
    left = plan.num_images % plan.batch_size
    assert len(order) == (plan.num_images if plan.last_batch == "mask" else plan.num_images - left)


@settings(max_examples=40, deadline=None)
@given(plan=plans(), epoch=st.integers(1, 50))
@example(plan=ONE_LEFT, epoch=2)
def test_all_batches_but_a_masked_last_one_are_whole(plan: Plan, epoch: int) -> None:
    lengths = [len(plan.global_batch(step, CPU)) for step in steps_of(plan, epoch)]
    full, rest = divmod(plan.num_images, plan.batch_size)
    assert lengths == [plan.batch_size] * full + ([rest] if rest and plan.last_batch == "mask" else [])
    assert [plan.epoch_of(step) for step in steps_of(plan, epoch)] == [epoch] * len(lengths)


@settings(max_examples=40, deadline=None)
@given(plan=plans(), data=st.data())
@example(plan=ONE_LEFT, data=None)
def test_ranks_and_parts_share_out_the_batch(plan: Plan, data: st.DataObject | None) -> None:
    last = 3 * plan.steps_per_epoch
    check_shares(plan, data.draw(st.integers(1, last)) if data else last)


@pytest.mark.parametrize("world_size", WORLDS)
@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("last_batch", ["drop", "mask"])
@pytest.mark.parametrize("num_images", [24, 25, 47, 100])
def test_every_step_of_two_epochs_is_shared_out(
    world_size: int, accumulate: int, last_batch: str, num_images: int
) -> None:
    plan = replace(PLAN, world_size=world_size, accumulate=accumulate, num_images=num_images)
    plan = replace(plan, last_batch="mask" if last_batch == "mask" else "drop")
    for step in range(1, 2 * plan.steps_per_epoch + 1):
        check_shares(plan, step)


@settings(max_examples=40, deadline=None)
@given(plan=plans(), step=st.integers(1, 200))
def test_without_fillers_a_part_has_its_own_images_only(plan: Plan, step: int) -> None:
    sizes = [len(index) for parts in all_shares(replace(plan, fillers=False), step) for index, _ in parts]
    assert sizes == [int((weights > 0).sum()) for parts in all_shares(plan, step) for _, weights in parts]
    assert min(sizes) == plan.fewest(plan.images_of(step))


@settings(max_examples=40, deadline=None)
@given(plan=plans(), step=st.integers(1, 200))
def test_the_batch_does_not_depend_on_who_divides_it(plan: Plan, step: int) -> None:
    alone = replace(plan, world_size=1, accumulate=1)
    assert plan.global_batch(step, CPU).tolist() == alone.global_batch(step, CPU).tolist()


@settings(max_examples=40, deadline=None)
@given(plan=plans(), step=st.integers(1, 200))
def test_images_are_counted_by_the_step(plan: Plan, step: int) -> None:
    assert plan.images_of(step) == len(plan.global_batch(step, CPU))


@settings(max_examples=40, deadline=None)
@given(plan=plans(), step=st.integers(1, 200))
def test_a_resumed_run_gets_the_same_images(plan: Plan, step: int) -> None:
    """The first run walks to the step, the second one asks for it directly, after other epochs."""
    walked = [ints(plan.global_batch(s, CPU)) for s in range(max(1, step - 5), step + 1)][-1]
    shares = [ints(index) for index, _ in plan.shares(step, CPU)]
    resumed = replace(plan)
    for far in (1000, 2000, 3000):
        resumed.global_batch(far, CPU)
    assert resumed.global_batch(step, CPU).tolist() == walked
    assert [ints(index) for index, _ in resumed.shares(step, CPU)] == shares


def test_order_changes_with_epoch_and_seed() -> None:
    orders = [tuple(epoch_order(replace(PLAN, seed=seed), epoch)) for seed in range(4) for epoch in range(1, 5)]
    assert len(set(orders)) == 16
    assert tuple(sorted(orders[0])) != orders[0]


def test_dropped_images_change_from_epoch_to_epoch() -> None:
    left_out = [frozenset(range(100)) - set(epoch_order(PLAN, epoch)) for epoch in range(1, 9)]
    assert all(len(images) == 4 for images in left_out)
    assert len(set(left_out)) > 4


def test_a_masked_batch_of_one_image_on_eight_ranks() -> None:
    weights = torch.cat([w for parts in all_shares(ONE_LEFT, 2) for _, w in parts])
    assert weights.sort().values.tolist() == [0.0] * (len(weights) - 1) + [1.0]


@pytest.mark.parametrize("last_batch", ["drop", "mask"])
def test_batch_larger_than_the_data(last_batch: str) -> None:
    with pytest.raises(BadInput, match=r"training\.batch_size = 101.*100 training images.*smaller"):
        replace(PLAN, batch_size=101, last_batch="mask" if last_batch == "mask" else "drop")


@pytest.mark.parametrize(("batch_size", "accumulate", "world_size"), [(7, 1, 8), (8, 2, 8), (24, 12, 3), (1, 1, 2)])
def test_a_rank_without_an_image(batch_size: int, accumulate: int, world_size: int) -> None:
    with pytest.raises(BadInput) as caught:
        replace(PLAN, batch_size=batch_size, accumulate=accumulate, world_size=world_size)
    for words in (f"training.batch_size = {batch_size}", f"{accumulate} part", f"{world_size} ranks", "raise"):
        assert words in str(caught.value)


@pytest.mark.parametrize(("batch_size", "accumulate", "world_size"), [(8, 1, 8), (16, 2, 8), (24, 8, 3), (100, 1, 1)])
def test_one_image_a_rank_is_enough(batch_size: int, accumulate: int, world_size: int) -> None:
    check_shares(replace(PLAN, batch_size=batch_size, accumulate=accumulate, world_size=world_size), 1)
