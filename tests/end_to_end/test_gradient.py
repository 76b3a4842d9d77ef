"""The gradient twin on real runs with several ranks, accumulation and short batches, and with faults planted there."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from crosscheck import Report, Verdict, replay
from tests.support import train_well

SHORT = (
    "--data.source=synthetic",
    "--data.train_images=100",
    "--data.test_images=20",
    "--training.batch_size=30",
    "--training.epochs=1",
    "--crosscheck.record=true",
    "--crosscheck.replay=false",
)


def recorded(folder: Path, *options: str, world_size: int = 1, plant: Any = None) -> Report:
    train_well(folder, *SHORT, *options, world_size=world_size, plant=plant)
    return replay(folder, require=["gradient"])


@pytest.mark.parametrize(
    ("world_size", "options"),
    [
        (1, ()),
        (2, ("--training.accumulate=3", "--training.label_smoothing=0.1")),
        (4, ("--training.last_batch=mask",)),  # the last step has 10 images, 3 or 2 for each rank
        (1, ("--precision.mode=bf16", "--precision.force=true")),
        (2, ("--precision.mode=fp16", "--precision.force=true", "--optimizer.lr=0.001")),
    ],
    ids=["one rank", "two ranks, three parts", "four ranks, short last batch", "bf16", "fp16"],
)
def test_gradient_of_the_whole_batch(world_size: int, options: tuple[str, ...], tmp_path: Path) -> None:
    last = 4 if "--training.last_batch=mask" in options else 3
    steps = f"--crosscheck.gradient_steps=[1,{last}]"
    report = recorded(tmp_path, steps, *options, world_size=world_size)
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.checks["gradient"] == "match"
    assert any(f"gradient of step {last}: {10 if last == 4 else 30} images" in note for note in report.notes), (
        report.notes
    )


def mean_of_means(rank: int) -> None:
    """Let each rank take the mean over its own images, although ranks have different numbers of them."""
    del rank
    from distrib.data.batches.plan import Plan

    shares = Plan.shares

    def unequal(self: Plan, *args: Any, **more: Any) -> Any:
        for index, weights in shares(self, *args, **more):
            mine = (weights > 0).float()
            yield index, mine / mine.sum() / self.world_size / self.accumulate

    Plan.shares = unequal  # pyright: ignore[reportAttributeAccessIssue]


def last_part_by_another_count(rank: int) -> None:
    """Divide the last of the accumulated parts by the number of images of the parts before it."""
    del rank
    from distrib.data.batches.plan import Plan

    shares = Plan.shares

    def uneven(self: Plan, *args: Any, **more: Any) -> Any:
        for number, (index, weights) in enumerate(shares(self, *args, **more), start=1):
            yield index, weights * self.accumulate / (self.accumulate - 1) if number == self.accumulate else weights

    Plan.shares = uneven  # pyright: ignore[reportAttributeAccessIssue]


def summed(rank: int) -> None:
    del rank
    from distrib.training.run import Run

    backward = Run.backward

    def too_much(self: Run, share: Any) -> None:
        backward(self, share * self.plan.world_size)

    Run.backward = too_much


def same_data(rank: int) -> None:
    """Let the second rank train on the images of the first."""
    del rank
    from distrib.data.batches import plan

    split = plan._split  # pyright: ignore[reportPrivateUsage]

    def first_only(batch: Any, parts: int) -> Any:
        pieces = split(batch, parts)
        return [pieces[0]] * parts if parts == 2 else pieces

    plan._split = first_only  # pyright: ignore[reportPrivateUsage]


def synchronised_always(rank: int) -> None:
    """Forget `no_sync`: ranks synchronise after every part."""
    del rank
    from accelerate import Accelerator

    def not_at_all(self: Accelerator, model: Any) -> Any:
        del self, model
        return nullcontext()

    Accelerator.no_sync = not_at_all  # pyright: ignore[reportAttributeAccessIssue]


def synchronised_never(rank: int) -> None:
    """Run every part under `no_sync`, so that each rank uses the gradient of its own share."""
    del rank
    from torch.nn.parallel import DistributedDataParallel

    forward = cast(Any, DistributedDataParallel).forward

    def alone(self: DistributedDataParallel, *inputs: Any) -> Any:
        self.require_backward_grad_sync = False
        return forward(self, *inputs)

    DistributedDataParallel.forward = alone


def evaluation_mode(rank: int) -> None:
    del rank
    from torch import nn

    from distrib.training import network

    build, train_mode = network.build_network, nn.Module.train

    def built(*args: Any) -> nn.Module:
        return train_mode(build(*args), False)

    def stay(self: nn.Module, mode: bool = True) -> nn.Module:
        del mode
        return self

    network.build_network, nn.Module.train = built, stay


def swapped_channels(rank: int) -> None:
    del rank
    from distrib.data.batches.normalize import Normalize

    start = Normalize.__init__

    def swapped(self: Normalize, mean: Any, std: Any, *args: Any, **more: Any) -> None:
        start(self, mean[[1, 0, 2]], std[[1, 0, 2]], *args, **more)

    Normalize.__init__ = swapped


ANOTHER_MIXTURE = "other images or labels"
FAULTS: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "mean of unequal means": (mean_of_means, ("--training.batch_size=31",), ANOTHER_MIXTURE),
    "last part divided by another count": (last_part_by_another_count, ("--training.accumulate=3",), ANOTHER_MIXTURE),
    "summed over ranks": (summed, (), "summed over the ranks"),
    "one rank's data twice": (same_data, (), ANOTHER_MIXTURE),
    # The weights of the ranks come apart too. The comparison of the ranks would end the run first, so it is off.
    "never synchronised": (synchronised_never, ("--training.check_ranks_every=none",), ANOTHER_MIXTURE),
    "evaluation mode": (evaluation_mode, (), "evaluation mode"),
    "channels swapped": (swapped_channels, (), ANOTHER_MIXTURE),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_caught(fault: str, tmp_path: Path) -> None:
    plant, options, cause = FAULTS[fault]
    report = recorded(tmp_path, "--crosscheck.gradient_steps=[2]", *options, world_size=2, plant=plant)
    assert report.verdict is Verdict.MISMATCH
    # The optimizer correctly used the wrong gradients that it got, so only the check of the gradient fails.
    assert {finding.check for finding in report.findings} == {"gradient"}
    assert {finding.step for finding in report.findings} == {2}
    assert cause in str(report), str(report)


def test_missing_no_sync_costs_time_only(tmp_path: Path) -> None:
    """Without `no_sync` the gradients are right, since the mean over ranks of what is already their mean is the same."""
    options = ("--training.accumulate=3", "--crosscheck.gradient_steps=[2]")
    report = recorded(tmp_path, *options, world_size=2, plant=synchronised_always)
    assert report.verdict is Verdict.MATCH, str(report)
