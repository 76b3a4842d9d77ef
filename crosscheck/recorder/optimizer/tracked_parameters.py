"""Tracks the parameters that an optimizer steps, while some of them join, leave, or are replaced by others."""

from collections.abc import Container, Iterable, Mapping, MutableMapping
from operator import attrgetter, is_
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from crosscheck.recorder.optimizer.tensors import tensors_of
from crosscheck.trace.format import TensorInfo

_REQUIRES_GRAD = attrgetter("requires_grad")


class _Left(NamedTuple):
    """What is kept of a parameter that left, as long as it lives: the optimizer may step it again."""

    number: int
    average: Tensor | None


class _Listing(NamedTuple):
    """A parameter group as it was found."""

    parameters: list[Tensor]
    trainable: list[bool]
    kernels: tuple[object, object]  # load_state_dict may bring other ones: fused and foreach are options of a group

    @classmethod
    def of(cls, group: Mapping[str, Any]) -> Self:
        parameters = list(group["params"])
        return cls(parameters, list(map(_REQUIRES_GRAD, parameters)), _kernels(group))

    def shows(self, group: Mapping[str, Any]) -> bool:
        """Return whether the group is as it was: no parameter joined, left, was replaced or frozen,
        and its kernel is the same.
        """
        parameters: list[Tensor] = group["params"]
        return (
            len(parameters) == len(self.parameters)
            and all(map(is_, parameters, self.parameters))
            and list(map(_REQUIRES_GRAD, parameters)) == self.trainable
            and _kernels(group) == self.kernels
        )


class TrackedParameters:
    """Numbers the parameters, which keep their numbers: one that leaves is not recorded any more, and one that joins goes to the
    end.

    A parameter that another one replaces in its group, or that is changed in shape or format, goes on under a new number. One
    that the optimizer does not step any more is not kept alive.

    Parameters that the optimizer steps are held by ordinary references: torch.utils.swap_tensors, and with it `load_state_dict`
    and the conversions of a module under torch.__future__, refuse a tensor to which there is a weak one.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, names: dict[Tensor, str], averages: dict[Tensor, Tensor]
    ) -> None:
        """`names` and `averages`: of parameters, whose hash is their identity. A parameter that leaves is removed from both.

        Raises UnsupportedOptimizer.
        """
        self.infos: list[TensorInfo] = []
        """What is known of every tensor there ever was, by number."""
        self.active: list[int] = []
        """The numbers of those that the optimizer steps now."""
        self.tensors: dict[int, Tensor] = {}
        """Those, by number."""
        self.averages: dict[int, Tensor] = {}
        """Their moving averages, by number, where there are some."""
        self.elements = 0
        """The sizes of those in sum."""
        self._optimizer, self._names, self._averages = optimizer, names, averages
        self._numbers: dict[Tensor, int] = {}  # of those that the optimizer steps now
        self._left: MutableMapping[Tensor, _Left] = WeakIdKeyDictionary()
        self._positions: dict[tuple[int, int], int] = {}  # the number, by group and position in it
        self._listings: list[_Listing] = []  # of each group
        # By number: what a parameter is; it goes on under another number if that changes.
        self._formats: dict[int, object] = {}
        self.update()

    def have_changed(self, numbers: Iterable[int]) -> bool:
        """Return whether the optimizer has other parameters than at the last update, or one of the numbered ones changed."""
        groups = self._optimizer.param_groups
        return (
            len(groups) != len(self._listings)
            or not all(listing.shows(group) for listing, group in zip(self._listings, groups, strict=True))
            or any(_format(self.tensors[n]) != self._formats[n] for n in numbers)
        )

    def update(self) -> list[str]:
        """Take in what changed and return it, a sentence for each parameter that was replaced. Raises UnsupportedOptimizer."""
        replaced: list[str] = []
        found = tensors_of(self._optimizer, self._names)
        self._take_back(parameter for parameter, _ in found)
        positions = [
            (number, k)
            for number, group in enumerate(self._optimizer.param_groups)
            for k in range(len(group["params"]))
        ]
        present = {id(parameter) for parameter, _ in found}
        active: dict[tuple[int, int], int] = {}
        tensors: dict[int, Tensor] = {}
        for position, (parameter, info) in zip(positions, found, strict=True):
            number = self._numbers.get(parameter)
            if number is not None and (info.shape, info.dtype) == (self.infos[number].shape, self.infos[number].dtype):
                kept = self.infos[number]
                self.infos[number] = info.model_copy(update={"name": kept.name, "replaces": kept.replaces})
            else:
                last = number if number is not None else self._positions.get(position)
                if last is not None and number is None and id(self.tensors[last]) in present:
                    last = None  # that one is at another position now
                number = self._add(parameter, info, last)
                if last is not None:
                    replaced.append(_replacement(self.infos[last], self.infos[number]))
            active[position] = number
            tensors[number] = parameter
        self.active, self._positions = list(active.values()), active
        self._listings = [_Listing.of(group) for group in self._optimizer.param_groups]
        self.tensors = tensors
        self._let_go(present)
        averages = {number: self._averages.get(tensor) for number, tensor in tensors.items()}
        self.averages = {number: average for number, average in averages.items() if average is not None}
        self._formats = {number: _format(self.tensors[number]) for number in self.active}
        groups = len(self._optimizer.param_groups)
        for number in set(range(len(self.infos))).difference(self.active):  # its group may be gone as well
            self.infos[number] = self.infos[number].model_copy(
                update={"group": min(self.infos[number].group, groups - 1)}
            )
        self.elements = sum(self.infos[number].numel for number in self.active)
        stepped = {n for n, tensor in tensors.items() if tensor.requires_grad or tensor.grad is not None}
        self.infos = [info.model_copy(update={"stepped": n in stepped}) for n, info in enumerate(self.infos)]
        return replaced

    def release(self) -> None:
        """Let go of all tensors: nothing is tracked any more."""
        self.active, self.tensors, self.averages, self._listings = [], {}, {}, []
        for kept in (self._numbers, self._names, self._averages, self._left):
            kept.clear()

    def _take_back(self, parameters: Iterable[Tensor]) -> None:
        """Give those of the parameters that left and are here again what they had before."""
        for parameter in parameters:
            left = self._left.pop(parameter, None)
            if left is not None:
                self._numbers[parameter] = left.number
                if left.average is not None:
                    self._averages[parameter] = left.average

    def _let_go(self, present: Container[int]) -> None:
        """Keep no parameter alive that left. `present`: the identities of the others."""
        for parameter in [parameter for parameter in self._numbers if id(parameter) not in present]:
            self._left[parameter] = _Left(self._numbers.pop(parameter), self._averages.pop(parameter, None))
            self._names.pop(parameter, None)

    def _add(self, parameter: Tensor, info: TensorInfo, replaces: int | None) -> int:
        number = len(self.infos)
        base = info.name if replaces is None else self.infos[replaces].name
        taken = {known.name for known in self.infos}
        names = (base, *(f"{base} ({count})" for count in range(2, number + 2)))
        name = next(name for name in names if name not in taken)
        self.infos.append(info.model_copy(update={"name": name, "replaces": replaces}))
        self._numbers[parameter] = number
        return number


def _kernels(group: Mapping[str, Any]) -> tuple[object, object]:
    """Return what chooses the implementation of a group's step."""
    return group.get("fused"), group.get("foreach")


def _format(parameter: Tensor) -> object:
    return parameter.dtype, parameter.shape, parameter.device


def _replacement(old: TensorInfo, new: TensorInfo) -> str:
    if (old.shape, old.dtype) == (new.shape, new.dtype):
        return f"{old.name} was replaced by another parameter, which is recorded as {new.name}"
    was, now = (f"{info.dtype} {list(info.shape)}" for info in (old, new))
    return f"{old.name} was {was} and is {now} now, which is recorded as {new.name}"
