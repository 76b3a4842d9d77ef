"""Every test image counts once, whatever the number of ranks."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn  # pyright: ignore[reportUnknownVariableType] (its fn has no type)
from torch.nn import functional

from distrib.data.batches.normalize import Normalize
from distrib.data.images import Split
from distrib.training.evaluate import Score, evaluate

CLASSES = 3


def problem(images: int) -> tuple[nn.Module, Split, Normalize]:
    """A network with dropout, so that training mode would show; small images of random pixels."""
    generator = torch.Generator().manual_seed(images)
    split = Split(
        torch.randint(0, 256, (images, 4, 4, 3), dtype=torch.uint8, generator=generator),
        torch.randint(0, CLASSES, (images,), generator=generator),
    )
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, CLASSES))
    normalize = Normalize(torch.full((3,), 0.5), torch.full((3,), 0.25), torch.device("cpu"), channels_last=True)
    return net, split, normalize


def directly(net: nn.Module, split: Split, normalize: Normalize) -> Score:
    with torch.no_grad():
        logits: Tensor = copy.deepcopy(net).eval()(normalize(split.images))
    correct = int((logits.argmax(dim=1) == split.labels).sum())
    loss = functional.cross_entropy(logits.double(), split.labels).item()
    return Score(correct / len(split), loss, len(split))


def assert_close(found: Score, expected: Score) -> None:
    assert (found.accuracy, found.images) == (expected.accuracy, expected.images)
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)


def score(net: nn.Module, split: Split, normalize: Normalize, *, batch: int, rank: int = 0, world: int = 1) -> Score:
    found = evaluate(net, split, normalize, nullcontext(), batch_size=batch, rank=rank, world_size=world)
    assert found is not None
    return found


class Threads:
    """Ranks as threads: a true sum over them, in place of a process group."""

    def __init__(self, world: int) -> None:
        self.barrier = threading.Barrier(world, timeout=120)
        self.lock = threading.Lock()
        self.total: Tensor | None = None

    def all_reduce(self, tensor: Tensor) -> None:
        with self.lock:
            self.total = tensor.clone() if self.total is None else self.total + tensor
        self.barrier.wait()
        assert self.total is not None
        tensor.copy_(self.total)
        if self.barrier.wait() == 0:
            self.total = None
        self.barrier.wait()

    def run(self, work: Callable[[int], Score]) -> list[Score]:
        with ThreadPoolExecutor(self.barrier.parties) as pool:
            return list(pool.map(work, range(self.barrier.parties)))


@pytest.mark.parametrize("images", [1, 5, 23])
@pytest.mark.parametrize("batch", [1, 2, 5, 22, 23, 100])
def test_one_process_equals_the_direct_computation(images: int, batch: int) -> None:
    net, split, normalize = problem(images)
    assert_close(score(net, split, normalize, batch=batch), directly(net, split, normalize))


@pytest.mark.parametrize("world", range(1, 9))
@pytest.mark.parametrize(("images", "batch"), [(23, 1), (23, 2), (24, 3), (23, 100), (5, 2), (1, 4)])
def test_any_number_of_ranks_gives_the_same_score(
    world: int, images: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, split, normalize = problem(images)
    threads = Threads(world)
    monkeypatch.setattr(dist, "all_reduce", threads.all_reduce)
    scores = threads.run(lambda rank: score(copy.deepcopy(net), split, normalize, batch=batch, rank=rank, world=world))
    assert len(set(scores)) == 1  # all ranks hold the same numbers
    assert_close(scores[0], directly(net, split, normalize))


def _process(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    found = score(*problem(23), batch=4, rank=rank, world=world)
    assert_close(found, directly(*problem(23)))
    dist.destroy_process_group()


def test_processes_agree_through_gloo(tmp_path: Path) -> None:
    spawn(_process, args=(2, str(tmp_path)), nprocs=2)  # raises what a process raised


@pytest.mark.parametrize("training", [True, False])
def test_mode_is_restored(training: bool) -> None:
    net, split, normalize = problem(5)
    net.train(training)
    score(net, split, normalize, batch=2)
    assert [module.training for module in net.modules()] == [training] * 4


def test_nothing_is_left_on_the_weights() -> None:
    net, split, normalize = problem(5)
    before = copy.deepcopy(net.state_dict())
    score(net, split, normalize, batch=2)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_autocast_is_used_and_the_loss_is_taken_in_float32() -> None:
    net, split, normalize = problem(23)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits: Tensor = copy.deepcopy(net).eval()(normalize(split.images))
    assert logits.dtype == torch.bfloat16
    expected = functional.cross_entropy(logits.float(), split.labels).item()
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    found = evaluate(net, split, normalize, autocast, batch_size=23, rank=0, world_size=1)
    assert found is not None
    assert found.loss == pytest.approx(expected, rel=1e-6)
    assert found.loss != pytest.approx(directly(net, split, normalize).loss, rel=1e-6)


@pytest.mark.parametrize("batches", [0, 1, 3])
def test_a_request_ends_it_between_two_batches(batches: int) -> None:
    net, split, normalize = problem(23)
    net.train()
    answers = iter([False] * batches + [True])
    found = evaluate(
        net, split, normalize, nullcontext(), batch_size=5, rank=0, world_size=1, asked_to_stop=lambda: next(answers)
    )
    assert found is None
    assert next(answers, None) is None
    assert net.training
