"""Copies a sample's elements out of the optimizer's tensors, with few operations whatever the number of tensors."""

from collections.abc import Iterable, Iterator, Mapping
from operator import is_
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crosscheck.recorder.optimizer.state import slot_name, state_of
from crosscheck.recorder.optimizer.tensors import DTYPES
from crosscheck.recorder.samples.digest_ranges import Quantity
from crosscheck.recorder.samples.digests import Digester, as_integers
from crosscheck.recorder.samples.snapshot import Bucket, BucketEntry, Numbers, Sample, Snapshot, Values
from crosscheck.trace.format import PARAM

_PlainNumber = tuple[int, Mapping[Any, Any], Any]
"""The number of a parameter, and the mapping and the key under which a number of its state is found."""


class SampleReader:
    """Takes snapshots of a sample with one operation for each dtype and device.

    Finding a parameter's state and making views of it takes longer than copying a few elements. So the buckets of views are kept
    as long as every tensor is where it was.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Mapping[int, tuple[Tensor, int]],
        sample: Sample,
        slot_names: Mapping[str, str],
    ) -> None:
        """`parameters`: by number, each with the number of its group. `slot_names`: the slot's name for keys of the state that
        are called otherwise.
        """
        self.sample = sample
        self.numbers: Numbers = tuple(parameters)
        self._optimizer, self._slot_names = optimizer, slot_names
        self._parameters = parameters
        self._tensors = [parameter for parameter, _ in parameters.values()]
        self._buckets: list[Bucket] | None = None
        self._plain_numbers: list[tuple[str, list[_PlainNumber]]] = []  # by slot
        self._digester: Digester | None = None
        # What the buckets were made from. If any of it is another, they are made anew.
        self._in_place = True  # or else they hold copies of tensors that lie otherwise
        self._states: list[Mapping[str, Any] | None] = []  # of each parameter
        self._entries: list[int] = []  # of each state
        self._state_keys: list[tuple[Mapping[Any, Any], Any]] = []  # where each of its tensors is found
        self._state_tensors: list[Tensor] = []
        self._addresses: list[int] = []  # of the memory of all parameters, and of these tensors
        # Those groups that count the steps of their parameters.
        self._counting_groups: list[tuple[int, Mapping[str, Any]]] = []

    def snapshot(self, step: int, *, before: bool) -> Snapshot:
        """Copy the parameters, and all state that is one number or has one for each element, before or after a step.

        Digests are taken as well if the sample has them at this step.
        """
        snapshot = Snapshot([(bucket, self._kept(bucket.copy())) for bucket in self._current_buckets()])
        for slot, found in self._plain_numbers:
            values = torch.tensor([mapping[key] for _, mapping, key in found], dtype=torch.float64, device="cpu")
            snapshot.counts[slot] = Values([(tuple(number for number, *_ in found), values)])
        ranges, digester = self.sample.digest_ranges, self._digester
        if ranges is not None and digester is not None and ranges.is_due(step, before=before, on_host=digester.on_host):
            snapshot.digests = digester.compute()
        return snapshot

    def gather(self, tensors: Iterable[Tensor | None]) -> Values:
        """Copy the sample's elements of other tensors of the parameters' shapes, such as gradients; one for each parameter."""
        present = ((n, t) for n, t in zip(self.numbers, tensors, strict=True) if t is not None)
        return Values([(numbers, self._kept(torch.cat(views))) for numbers, views, _ in self._views(present)])

    def _kept(self, vector: Tensor) -> Tensor:
        """Return the vector, off the device if it is of a full sample, which is large."""
        return vector.cpu() if self.sample.full else vector

    def _views(self, tensors: Iterable[tuple[int, Tensor]]) -> Iterator[tuple[Numbers, list[Tensor], bool]]:
        """Yield for each dtype and device the numbers of its tensors, vectors of the sample's elements, and whether these are
        views: of a tensor that lies otherwise than the parameter they are copies.
        """
        for members in _same_format(tensors).values():
            pairs = [self.sample.columns[number].views(tensor) for number, tensor in members]
            numbers = tuple(number for number, _ in members)
            yield (
                self.numbers if numbers == self.numbers else numbers,
                [view for views, _ in pairs for view in views],
                all(are_views for _, are_views in pairs),
            )

    def _current_buckets(self) -> list[Bucket]:
        """Return the buckets, made anew if a tensor is not where it was."""
        if self._buckets is None or not self._are_current():
            self._buckets = self._make_buckets()
        return self._buckets

    def _are_current(self) -> bool:
        """Return whether the optimizer has the tensors from which the buckets were made, and these are where they were."""
        state, groups = self._optimizer.state, self._optimizer.param_groups
        return (
            self._in_place
            and all(map(is_, map(state.get, self._tensors), self._states))
            and [len(own or ()) for own in self._states] == self._entries
            and all(groups[number] is group for number, group in self._counting_groups)
            and all(map(is_, (mapping.get(key) for mapping, key in self._state_keys), self._state_tensors))
            and self._find_addresses() == self._addresses
        )

    def _find_addresses(self) -> list[int]:
        """Return where the memory of all tensors is. Memory that torch resizes is at another address, or at none."""
        return [*map(Tensor.data_ptr, self._tensors), *map(Tensor.data_ptr, self._state_tensors)]

    def _make_buckets(self) -> list[Bucket]:
        elementwise, scalars = self._find_state()
        buckets: dict[object, Bucket] = {}
        are_all_views = True
        for slot, tensors in elementwise.items():
            for numbers, views, are_views in self._views(tensors):
                are_all_views &= are_views
                self._bucket(buckets, slot, views[0]).add(BucketEntry(slot, False, numbers), views)
        for slot, tensors in scalars.items():
            for members in _same_format(tensors).values():
                numbers, views = tuple(n for n, _ in members), [t for _, t in members]
                self._bucket(buckets, slot, views[0]).add(BucketEntry(slot, True, numbers), views)
        self._digester, are_views = self._make_digester(elementwise)
        self._in_place = are_all_views and are_views
        self._addresses = self._find_addresses()
        return list(buckets.values())

    def _find_state(self) -> tuple[dict[str, list[tuple[int, Tensor]]], dict[str, list[tuple[int, Tensor]]]]:
        """Return numbered tensors by slot: the parameters and state of their shape;
        and separately state of one number a tensor.
        """
        elementwise: dict[str, list[tuple[int, Tensor]]] = {PARAM: []}
        scalars: dict[str, list[tuple[int, Tensor]]] = {}
        plain_numbers: dict[str, list[_PlainNumber]] = {}
        self._states, self._entries, self._state_keys, self._state_tensors = [], [], [], []
        self._counting_groups = []
        for number, (parameter, group) in self._parameters.items():
            elementwise[PARAM].append((number, parameter.detach()))
            own: Mapping[str, Any] | None = self._optimizer.state.get(parameter)
            self._states.append(own)
            self._entries.append(len(own or ()))
            state = state_of(self._optimizer, parameter, group, self._slot_names)
            for key, value in state.items():
                slot, mapping = slot_name(key, self._slot_names, state), own or {}
                if key not in mapping:
                    mapping = self._optimizer.param_groups[group]
                    self._counting_groups.append((group, mapping))
                if isinstance(value, Tensor):
                    self._state_keys.append((mapping, key))
                    self._state_tensors.append(value)
                    if value.shape == parameter.shape and value.dtype in DTYPES:
                        elementwise.setdefault(slot, []).append((number, value.detach()))
                    elif value.numel() == 1:
                        scalars.setdefault(slot, []).append((number, value.detach().reshape(1)))
                elif isinstance(value, int | float | np.integer | np.floating):
                    plain_numbers.setdefault(slot, []).append((number, mapping, key))
        self._plain_numbers = list(plain_numbers.items())
        return elementwise, scalars

    def _bucket(self, buckets: dict[object, Bucket], slot: str, like: Tensor) -> Bucket:
        """Return the bucket of this dtype and device. In a full sample each slot has its own, because joining whole tensors of
        several slots would need their memory twice.
        """
        return buckets.setdefault((like.dtype, like.device, slot if self.sample.full else None), Bucket())

    def _make_digester(self, elementwise: Mapping[str, list[tuple[int, Tensor]]]) -> tuple[Digester | None, bool]:
        """Return what takes the digests, if there is anything to take them of, and whether it reads the tensors in place."""
        ranges = self.sample.digest_ranges
        if ranges is None:
            return None, True
        tensors: list[tuple[Quantity, Tensor]] = [
            ((number, slot), tensor)
            for slot, numbered in elementwise.items()
            for number, tensor in numbered
            if not self.sample.columns[number].whole
        ]
        ranges.include(tensors)
        pieces = [
            (quantity, *as_integers(tensor, ranges.ranges[quantity]))
            for quantity, tensor in tensors
            if ranges.cover(quantity)
        ]
        are_views = all(is_view for *_, is_view in pieces)
        return Digester([(quantity, piece) for quantity, piece, _ in pieces]) if pieces else None, are_views


def _same_format(
    tensors: Iterable[tuple[int, Tensor]],
) -> dict[tuple[torch.dtype, torch.device], list[tuple[int, Tensor]]]:
    """Return numbered tensors by format and device: what can be put into one vector."""
    found: dict[tuple[torch.dtype, torch.device], list[tuple[int, Tensor]]] = {}
    for number, tensor in tensors:
        found.setdefault((tensor.dtype, tensor.device), []).append((number, tensor))
    return found
