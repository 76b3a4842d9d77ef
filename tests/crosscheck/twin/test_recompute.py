"""The gradient twin computes what torch computes, and finds planted faults."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from crosscheck.criterion.stochastic import GradientComparison, compare_gradients
from crosscheck.trace.format import DType
from crosscheck.twin.network_inputs import NetworkInputs
from crosscheck.twin.recompute import Twin, recompute
from distrib.data.sources import synthetic
from distrib.networks.article import article

Gradients = dict[str, NDArray[Any]]
HALVES: tuple[DType, ...] = ("bfloat16", "float16")
SMOOTHING = 0.1
SPLIT = 17  # of 32 images, so that two ranks have different numbers of them
LOSS_SCALE = {"float16": 4096.0}


@cache
def batch(size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    split = synthetic.load(size, 10).train
    return split.images.numpy(), split.labels.numpy()


def moments(size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    pixels = batch(size)[0] / 255.0
    return pixels.mean(axis=(0, 1, 2)), pixels.std(axis=(0, 1, 2))


@cache
def network(seed: int = 0, updates: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = article().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(updates):
        for name, gradient in torch_gradients(model, record(model))[0].items():
            model.get_parameter(name).grad = torch.from_numpy(gradient).float()
        optimizer.step()
    return model


def record(model: nn.Module, size: int = 32, compute: DType = "float32") -> NetworkInputs:
    images, labels = batch(size)
    mean, std = moments(size)
    return NetworkInputs(
        images=images,
        labels=labels,
        parameters={name: p.detach().numpy().copy() for name, p in model.named_parameters()},
        mean=mean,
        std=std,
        label_smoothing=SMOOTHING,
        compute=compute,
        loss_scale=LOSS_SCALE.get(compute, 1.0),
    )


def torch_gradients(
    model: nn.Sequential, of: NetworkInputs, weights: NDArray[Any] | None = None, *, contiguous: bool = False
) -> tuple[Gradients, tuple[NDArray[np.uint8], ...]]:
    """Return the gradients and winners that torch computes for the pass.

    `weights` are those of the images in the loss, which is their mean by default.
    """
    dtype = torch.float64 if of.compute == "float64" else torch.float32
    pixels = torch.from_numpy((of.images / 255.0 - of.mean) / of.std).to(dtype).permute(0, 3, 1, 2)
    if contiguous:
        pixels = pixels.contiguous()
    share = torch.from_numpy(np.full(len(of.labels), 1.0 / len(of.labels)) if weights is None else weights).to(dtype)
    winners: list[NDArray[np.uint8]] = []
    x = pixels
    with torch.autocast("cpu", dtype=getattr(torch, of.compute), enabled=of.compute in HALVES):
        for layer in model:
            if isinstance(layer, nn.MaxPool2d):
                width = x.shape[-1]
                x, where = functional.max_pool2d(x, 2, return_indices=True)
                winners.append((where // width % 2 * 2 + where % width % 2).to(torch.uint8).numpy())
            else:
                x = layer(x)
        labels = torch.from_numpy(of.labels)
        losses = functional.cross_entropy(x, labels, reduction="none", label_smoothing=of.label_smoothing)
        loss = (losses * share).sum() * of.loss_scale
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()))
    return {name: (g / of.loss_scale).numpy() for name, g in zip(named, found, strict=True)}, tuple(winners)


@cache
def correct(compute: DType, updates: int = 0) -> tuple[Twin, Gradients]:
    model = network(updates=updates)
    gradients, winners = torch_gradients(model, record(model, compute=compute))
    return recompute(replace(record(model, compute=compute), winners=winners)), gradients


def wrong(result: GradientComparison) -> list[str]:
    return [name for name, found in result.tensors.items() if found.wrong]


def part(of: NetworkInputs, images: Sequence[int] | slice) -> NetworkInputs:
    return replace(of, images=of.images[images], labels=of.labels[images])


def mixed(*parts: tuple[float, Mapping[str, Any]]) -> Gradients:
    return {name: sum(weight * gradients[name] for weight, gradients in parts) for name in parts[0][1]}  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize("own_winners", [False, True])
def test_float64_is_torch_in_float64(own_winners: bool) -> None:
    model = article().double()
    of = record(model, size=20, compute="float64")  # the size is not a multiple of the chunk
    gradients, winners = torch_gradients(model, of)
    twin = recompute(of if own_winners else replace(of, winners=winners))
    for name, expected in twin.tensors.items():
        error = np.linalg.norm(gradients[name] - expected.gradient) / np.linalg.norm(expected.gradient)
        assert error < 1e-12, name
    assert not wrong(compare_gradients(twin.tensors, gradients))
    assert [pooling.flips for pooling in twin.poolings] == [0, 0, 0]
    assert [pooling.windows for pooling in twin.poolings] == [winner.size for winner in winners]


@pytest.mark.parametrize("updates", [0, 30])
@pytest.mark.parametrize("compute", ["float32", "bfloat16", "float16"])
def test_correct_kernels_pass(compute: DType, updates: int) -> None:
    twin, gradients = correct(compute, updates)
    result = compare_gradients(twin.tensors, gradients)
    assert not wrong(result), result
    assert sum(pooling.wrong for pooling in twin.poolings) == 0
    assert abs(result.scale - 1.0) < result.power


def test_halves_flip_winners_and_none_is_wrong() -> None:
    twin, _ = correct("bfloat16")
    assert all(pooling.flips > 0 and pooling.wrong == 0 and pooling.gap < 4 for pooling in twin.poolings)


@pytest.mark.parametrize("factor", [0.1, 10.0])
@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_correct_kernels_pass_with_small_and_large_weights(compute: DType, factor: float) -> None:
    model = article()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(factor)
    of = record(model, size=128, compute=compute)
    gradients, winners = torch_gradients(model, of, contiguous=True)
    twin = recompute(replace(of, winners=winners))
    assert not wrong(compare_gradients(twin.tensors, gradients))


def test_gradients_that_are_zero_pass() -> None:
    model = article()
    nn.init.zeros_(model.get_parameter("8.weight"))  # so the layers below get no gradient
    gradients, winners = torch_gradients(model, record(model))
    twin = recompute(replace(record(model), winners=winners))
    assert not np.any(gradients["0.weight"])
    assert not wrong(compare_gradients(twin.tensors, gradients))
    assert wrong(compare_gradients(twin.tensors, gradients | {"0.bias": np.full(32, 1e-3)})) == ["0.bias"]


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_ranks_parts_and_fillers_make_the_same_batch(compute: DType) -> None:
    model = network()
    of = record(model, size=32, compute=compute)
    first, second = range(SPLIT), [*range(SPLIT, 32), 0, 0]  # with two fillers at the end
    gradients: list[Gradients] = []
    winners: list[tuple[NDArray[np.uint8], ...]] = []
    for indices, real in ((first, SPLIT), (second, 32 - SPLIT)):
        weights = np.where(np.arange(len(indices)) < real, 1 / 32, 0.0)
        found, won = torch_gradients(model, part(of, indices), weights)
        gradients.append(found)
        winners.append(tuple(x[:real] for x in won))
    whole = replace(of, winners=tuple(np.concatenate(both) for both in zip(*winners, strict=True)))
    assert not wrong(compare_gradients(recompute(whole).tensors, mixed((1.0, gradients[0]), (1.0, gradients[1]))))


def test_a_wrong_winner_is_told_from_a_tie() -> None:
    model = network()
    of = record(model)
    tied = replace(of, images=np.where(np.arange(32)[:, None, None, None] == 3, 128, of.images).astype(np.uint8))
    _, winners = torch_gradients(model, tied)
    flat = winners[0].copy()
    flat[3, 5, 8, 8] = 3 - flat[3, 5, 8, 8]  # the image is grey, so all elements of a window are equal
    assert [pooling.wrong for pooling in recompute(replace(tied, winners=(flat, *winners[1:]))).poolings] == [0, 0, 0]
    planted = winners[1].copy()
    planted[2, 7, 4, 1] = 3 - planted[2, 7, 4, 1]
    pooling = recompute(replace(tied, winners=(winners[0], planted, winners[2]))).poolings[1]
    assert (pooling.name, pooling.wrong) == ("3", 1)


def faults(compute: DType) -> dict[str, Gradients]:
    """Return the gradients that trainers with mistakes would have recorded, by the name of the mistake."""
    model = network()
    of = record(model, compute=compute)

    def made(changed: NetworkInputs) -> Gradients:
        return torch_gradients(model, changed)[0]

    _, whole = correct(compute)
    first, second = made(part(of, slice(SPLIT))), made(part(of, slice(SPLIT, None)))
    swapped = [1, 0, 2]
    found = {
        "each rank's own mean, averaged": mixed((0.5, first), (0.5, second)),
        "summed over two ranks": mixed((2.0, whole)),
        "divided by the ranks twice": mixed((0.5, whole)),
        "last part divided by too few": mixed((SPLIT / 32, first), (15 / 32 * 1.25, second)),
        "1 % off": mixed((1.01, whole)),
    }
    if compute != "bfloat16":
        found["0.1 % off"] = mixed((1.001, whole))
    # A CPU emulates float16, which takes six seconds a pass; bfloat16, which is coarser, shows these as well.
    if compute != "float16":
        found["one rank's images on both"] = made(part(of, [*range(16), *range(16)]))
        found["channels swapped"] = made(replace(of, mean=of.mean[swapped], std=of.std[swapped]))
        found["label smoothing forgotten"] = made(replace(of, label_smoothing=0.0))
    return found


@pytest.mark.parametrize("compute", ["float32", "bfloat16", "float16"])
def test_every_planted_fault_is_caught(compute: DType) -> None:
    twin, _ = correct(compute)
    passed = [
        fault for fault, gradients in faults(compute).items() if not wrong(compare_gradients(twin.tensors, gradients))
    ]
    assert not passed


def test_a_factor_is_named() -> None:
    twin, gradients = correct("bfloat16")
    result = compare_gradients(twin.tensors, mixed((2.0, gradients)))
    assert result.scale == pytest.approx(2.0, rel=1e-2)
    assert all(found.scale == pytest.approx(2.0, rel=3e-2) for found in result.tensors.values())


@pytest.mark.parametrize("compute", ["float32", "bfloat16", "float16"])
def test_power_is_what_shows(compute: DType) -> None:
    twin, _ = correct(compute)
    exact = {name: expected.gradient for name, expected in twin.tensors.items()}
    power = compare_gradients(twin.tensors, exact).power
    assert power < {"float32": 1e-4, "bfloat16": 1e-2, "float16": 2e-3}[compute]
    assert not wrong(compare_gradients(twin.tensors, mixed((1.0 + 0.9 * power, exact))))
    assert wrong(compare_gradients(twin.tensors, mixed((1.0 + 1.1 * power, exact))))


@pytest.mark.parametrize("value", [None, np.nan, np.inf])
def test_a_single_wrong_element_is_found(value: float | None) -> None:
    twin, gradients = correct("float32")
    changed = gradients["7.weight"].copy()
    changed[5, 77] = changed[5, 77] + 0.01 * changed.std() if value is None else value
    result = compare_gradients(twin.tensors, gradients | {"7.weight": changed})
    found = result.tensors["7.weight"]
    assert wrong(result) == ["7.weight"]
    assert (found.index, found.over) == ((5, 77), 1)


def test_the_same_pass_gives_the_same_numbers() -> None:
    of = record(network())
    once, again = recompute(of), recompute(of)
    assert all(np.array_equal(once.tensors[name].deviation, again.tensors[name].deviation) for name in once.tensors)
