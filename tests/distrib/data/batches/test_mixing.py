"""Mixup and cutmix: what is mixed with what, in which share, on any number of ranks."""

from dataclasses import replace
from itertools import pairwise

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distrib.data.batches.augment import Augmentation
from distrib.data.batches.batches import Batches, Part
from distrib.data.batches.mixing import Cutmix, Mixing, Mixup
from distrib.data.batches.normalize import Normalize
from distrib.data.batches.plan import Plan
from distrib.data.images import Split
from tests.distrib.data.batches.test_plan import plans
from tests.distrib.recipes import Load, Refuse

CPU = torch.device("cpu")
SIZE = 12
IMAGES = torch.randint(0, 256, (80, SIZE, SIZE, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SPLIT = Split(IMAGES, torch.arange(80) * 3)
BYTES = Normalize(torch.zeros(3), torch.full((3,), 1 / 255), CPU, channels_last=True)
MIXUP, CUTMIX, BOTH = Mixing(mixup=0.4, cutmix=0), Mixing(mixup=0, cutmix=1), Mixing(mixup=0.4, cutmix=1)
PLAN = Plan(num_images=80, batch_size=24, last_batch="mask", accumulate=1, seed=0, rank=0, world_size=1)


def batches(plan: Plan, mixing: Mixing | None) -> Batches:
    return Batches(SPLIT, plan, BYTES, Augmentation(cutout=3), mixing)


def real(part: Part) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels and labels of what was mixed in, without fillers."""
    there = part.weights > 0
    assert part.mixed is not None
    return part.images[there], part.labels[there], part.mixed.labels[there]


@pytest.mark.parametrize("mixing", [MIXUP, CUTMIX, BOTH])
@pytest.mark.parametrize("step", [1, 2, 4, 5])  # the fourth has eight images
def test_each_image_is_mixed_with_the_next_one(mixing: Mixing, step: int) -> None:
    """Both as augmentation has them; the last one with the first."""
    (part,) = batches(PLAN, mixing).at(step)
    (plain,) = batches(PLAN, None).at(step)
    count = int((plain.weights > 0).sum())
    alone, labels = plain.images[:count], plain.labels[:count]
    images, own, others = real(part)
    assert part.mixed is not None
    share, mix = part.mixed.share, mixing.at(PLAN.seed, step, SIZE)
    assert share == mix.share
    assert torch.equal(own, labels)
    assert torch.equal(others, labels.roll(-1))
    if isinstance(mix, Mixup):
        exact = (share * alone.double() + (1 - share) * alone.roll(-1, 0).double()).float()
        assert torch.allclose(images, exact, atol=1e-3)
    else:
        cut = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        cut[mix.rows, mix.columns] = True
        assert cut.double().mean().item() == pytest.approx(1 - share), "the share is not that of the area"
        assert torch.equal(images, torch.where(cut, alone.roll(-1, 0), alone))


@settings(max_examples=40, deadline=None)
@given(plan=plans(), step=st.integers(1, 200), mixing=st.sampled_from([MIXUP, CUTMIX, BOTH]))
def test_every_world_sees_the_same_mixed_pixels(plan: Plan, step: int, mixing: Mixing) -> None:
    def seen(plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
        ranks = [list(batches(replace(plan, rank=rank), mixing).at(step)) for rank in range(plan.world_size)]
        parts = [real(ranks[rank][number]) for number in range(plan.accumulate) for rank in range(plan.world_size)]
        images, labels, others = (torch.cat(its) for its in zip(*parts, strict=True))
        return images, labels, others

    divided, alone = seen(plan), seen(replace(plan, world_size=1, accumulate=1))
    assert all(torch.equal(one, other) for one, other in zip(divided, alone, strict=True))
    images, labels, mixed = batches(plan, mixing).whole(step)
    assert mixed is not None
    assert torch.equal(images, alone[0].permute(0, 2, 3, 1).round().to(torch.uint8))
    assert torch.equal(labels, alone[1])
    assert torch.equal(mixed.labels, alone[2])


def test_bytes_are_mixed_without_rounding() -> None:
    images = torch.randint(0, 256, (300, 4, 4, 3), dtype=torch.uint8)
    for step in range(20):
        mix = MIXUP.at(0, step, 4)
        assert isinstance(mix, Mixup)
        exact = mix.share * images[:-1].double() + (1 - mix.share) * images[1:].double()
        assert torch.equal(mix(images).double(), exact)


def test_a_mix_changes_nothing_that_it_is_given() -> None:
    images = IMAGES.clone()
    for mixing in (MIXUP, CUTMIX):
        mixing.at(0, 1, SIZE)(images)
    assert torch.equal(images, IMAGES)


@pytest.mark.parametrize("key", ["data.mixup", "data.cutmix"])
def test_an_alpha_of_which_no_share_can_be_drawn(refused: Refuse, load: Load, key: str) -> None:
    assert "accepted are 1e-06 to 1000, and 0" in refused(f"--{key}", "1e-310")
    assert all(0 <= Mixing(mixup=1e-6, cutmix=0).at(0, step, 32).share <= 1 for step in range(100))
    load(f"--{key}", "1e-6")


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_shares_are_drawn_from_a_beta_distribution(alpha: float, kind: str) -> None:
    mixing = Mixing(mixup=alpha, cutmix=0) if kind == "mixup" else Mixing(mixup=0, cutmix=alpha)
    shares = numpy.array([mixing.at(7, step, 32).share for step in range(2000)])
    assert ((shares >= 0) & (shares <= 1)).all()
    if kind == "mixup":
        assert shares.mean() == pytest.approx(0.5, abs=0.04)
        assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.15)
    else:  # a rectangle that sticks out takes less
        assert shares.mean() > 0.55


def test_where_rectangles_are() -> None:
    cuts = [CUTMIX.at(0, step, 32) for step in range(3000)]
    covered = torch.zeros(32, 32)
    for cut in cuts:
        assert isinstance(cut, Cutmix)
        assert 0 <= cut.rows.start <= cut.rows.stop <= 32
        covered[cut.rows, cut.columns] += 1 / len(cuts)
    assert covered.min() > 0.1
    assert torch.allclose(covered, covered.T, atol=0.06), "rows and columns are not drawn alike"
    assert torch.allclose(covered, covered.flip(0), atol=0.06)


def test_both_take_turns_by_chance() -> None:
    kinds = [isinstance(BOTH.at(0, step, 32), Cutmix) for step in range(1000)]
    assert sum(kinds) == pytest.approx(500, abs=60)
    turns = sum(one != two for one, two in pairwise(kinds))
    assert turns == pytest.approx(500, abs=60)
    mixups = [mix for mix in (BOTH.at(0, step, 32) for step in range(1000)) if isinstance(mix, Mixup)]
    assert numpy.mean([mix.share for mix in mixups]) == pytest.approx(0.5, abs=0.05), "the share follows the kind"


def test_seed_and_step_draw_anew() -> None:
    shares = {MIXUP.at(seed, step, 32).share for seed in range(5) for step in range(20)}
    assert len(shares) > 90
    assert [MIXUP.at(0, step, 32).share for step in (3, 1, 2)] == [MIXUP.at(0, step, 32).share for step in (3, 1, 2)]


def test_what_is_drawn_stays_the_same_from_version_to_version() -> None:
    assert [round(MIXUP.at(0, step, 32).share * 2**16) for step in (1, 2, 3)] == [43625, 23158, 65524]
    assert CUTMIX.at(0, 1, 32) == Cutmix(0.70703125, slice(12, 32), slice(17, 32))
    assert CUTMIX.at(0, 2, 32) == Cutmix(0.9208984375, slice(6, 15), slice(21, 30))
