"""Confusions are counted, and the worst mistakes found, whoever has which images."""

import pytest
import torch
from torch import Tensor

from distrib.data.images import Split
from distrib.training.metrics.mistakes import MOST_CLASSES, Mistakes

CPU = torch.device("cpu")


def problem(images: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return logits and labels."""
    generator = torch.Generator().manual_seed(images)
    return torch.randn(images, classes, generator=generator), torch.randint(0, classes, (images,), generator=generator)


@pytest.mark.parametrize("batch", [7, 100])
@pytest.mark.parametrize("world_size", [1, 3])
def test_all_ranks_together_find_what_one_finds_directly(world_size: int, batch: int) -> None:
    """The sum over the ranks is taken by hand, tensor by tensor."""
    logits, labels = problem(images=100, classes=4)
    ranks = [Mistakes(4, CPU) for _ in range(world_size)]
    for rank, mine in enumerate(ranks):
        first, last = 100 * rank // world_size, 100 * (rank + 1) // world_size
        for start in range(first, last, batch):
            stop = min(start + batch, last)
            mine.add(start, logits[start:stop], labels[start:stop])
    shared: list[list[Tensor]] = []
    for rank, mine in enumerate(ranks):  # what each would give to the sum
        given: list[Tensor] = []
        mine.sum_up(lambda tensor, given=given: given.append(tensor.clone()) or tensor, rank, world_size)
        shared.append(given)
    sums = [torch.stack(tensors).sum(dim=0) for tensors in zip(*shared, strict=True)]
    taken = iter(sums)
    ranks[0].sum_up(lambda tensor: tensor.copy_(next(taken)), 0, world_size)

    split = Split(torch.arange(100, dtype=torch.uint8)[:, None, None, None].expand(100, 2, 2, 3), labels)
    found = ranks[0].to_json(split, ("a", "b", "c", "d"), lambda image: str(int(image[0, 0, 0])))
    predicted = logits.argmax(dim=1)
    expected = torch.zeros(4, 4, dtype=torch.int64)
    for label, guess in zip(labels, predicted, strict=True):
        expected[int(label), int(guess)] += 1
    assert found["confusion"] == expected.tolist()
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none") * (predicted != labels)
    assert [int(entry["png"]) for entry in found["worst"]] == losses.argsort(descending=True)[:24].tolist()
    assert all(entry["label"] != entry["predicted"] for entry in found["worst"])


def test_a_network_without_mistakes_has_none() -> None:
    mistakes = Mistakes(3, CPU)
    mistakes.add(0, 9.0 * torch.eye(3), torch.arange(3))
    found = mistakes.to_json(Split(torch.zeros(3, 2, 2, 3, dtype=torch.uint8), torch.arange(3)), ("a", "b", "c"), str)
    assert found["worst"] == []
    assert found["confusion"] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def test_of_many_classes_only_the_worst_mistakes_are_kept() -> None:
    logits, labels = problem(images=60, classes=MOST_CLASSES + 1)
    mistakes = Mistakes(MOST_CLASSES + 1, CPU)
    mistakes.add(0, logits, labels)
    mistakes.sum_up(lambda tensor: tensor, 0, 1)
    names = tuple(map(str, range(MOST_CLASSES + 1)))
    found = mistakes.to_json(Split(torch.zeros(60, 2, 2, 3, dtype=torch.uint8), labels), names, lambda _: "")
    assert found["confusion"] == []
    assert len(found["worst"]) == 24
