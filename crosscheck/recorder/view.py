"""What is looked at during one part of a trace: chosen elements of chosen parameters, of their gradients and of their state."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crosscheck.recorder.columns import Columns, same_format
from crosscheck.recorder.digests import Digester, Named, Sight, Windows, holdable, words
from crosscheck.recorder.optimizer_info import DTYPES, state_of
from crosscheck.trace.format import AVERAGE, PARAM, RESERVED_SLOTS

Numbers = tuple[int, ...]


@dataclass(slots=True)
class Picked:
    """Copies of the chosen elements of numbered tensors, one after the other, in one vector for each format and device."""

    chunks: list[tuple[Numbers, Tensor]] = field(default_factory=list[tuple[Numbers, Tensor]])

    @property
    def nbytes(self) -> int:
        return sum(vector.nbytes for _, vector in self.chunks)


class Place(NamedTuple):
    """What a part of a joined vector is."""

    slot: str
    scalar: bool  # one number a tensor
    numbers: Numbers


@dataclass(slots=True)
class Joint:
    """Views of all quantities of one format on one device, ready to be copied with one operation."""

    views: list[Tensor] = field(default_factory=list[Tensor])
    places: list[Place] = field(default_factory=list[Place])
    sizes: list[int] = field(default_factory=list[int])  # of the places

    def add(self, place: Place, views: list[Tensor]) -> None:
        self.views += views
        self.places.append(place)
        self.sizes.append(sum(view.numel() for view in views))


@dataclass(slots=True)
class Moment:
    """Parameters and state before or after a step. What does not exist is left out."""

    vectors: list[tuple[Joint, Tensor]] = field(default_factory=list[tuple[Joint, Tensor]])
    average: Picked = field(default_factory=Picked)  # the moving average
    counts: dict[str, Picked] = field(default_factory=dict[str, Picked])  # state that is a plain number

    @property
    def nbytes(self) -> int:
        return self.average.nbytes + sum(vector.nbytes for _, vector in self.vectors)

    def apart(self) -> tuple[dict[str, Picked], dict[str, Picked]]:
        """Return the parameter, and state of its shape, by slot; and state of one number a tensor."""
        slots: dict[str, Picked] = {}
        scalars: dict[str, Picked] = {}
        for joint, vector in self.vectors:
            for place, values in zip(joint.places, torch.split(vector, joint.sizes), strict=True):
                picked = (scalars if place.scalar else slots).setdefault(place.slot, Picked())
                picked.chunks.append((place.numbers, values))
        for slot, picked in self.counts.items():
            scalars.setdefault(slot, Picked()).chunks.extend(picked.chunks)
        if self.average.chunks:
            slots[AVERAGE] = self.average
        return slots, scalars


@dataclass(frozen=True, slots=True)
class Chosen:
    """The elements that a view looks at. It holds none of the tensors."""

    columns: Mapping[int, Columns]  # by number of the tensor
    windows: Windows | None  # what is held by digests, if anything is
    full: bool  # many elements, once: whole tensors, or blocks of them


_Pin = tuple[Mapping[Any, Any], Any, Tensor, int]
"""Where a tensor was found, under which key, and its memory: as long as all of that holds, views of it stay good."""


class View:
    """Copies what is looked at with one operation for each format and device, whatever the number of tensors.

    Finding a parameter's state, and making views of it, takes longer than copying a few elements. So the views are kept
    as long as every tensor is where it was.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        parameters: Mapping[int, tuple[Tensor, int]],
        chosen: Chosen,
        slot_names: Mapping[str, str],
    ) -> None:
        """`parameters`: by number, each with the number of its group."""
        self.chosen = chosen
        self._optimizer, self._slot_names = optimizer, slot_names
        self._parameters = parameters
        self.numbers: Numbers = tuple(parameters)
        self._pins: list[_Pin] = []
        self._states: list[tuple[Tensor, Mapping[str, Any] | None, int]] = []  # of each parameter, and its entries
        self._groups: list[tuple[int, Mapping[str, Any]]] = []  # that hold counts of their parameters
        self._memory: list[tuple[Tensor, int]] = []  # of each parameter
        self._joints: list[Joint] | None = None
        self._counted: list[tuple[str, list[tuple[int, Mapping[Any, Any], Any]]]] = []  # state that is a plain number
        self._digester: Digester | None = None

    def look(self, step: int, *, before: bool) -> tuple[Moment, Sight | None]:
        """Copy the parameters, and every slot that is one number or has one for each element, before or after a step.

        Return them with the digests of what is held and not recorded, if anything is to be held at this moment.
        """
        moment = Moment([(joint, self._copy(joint.views)) for joint in self._current()])
        for slot, places in self._counted:
            values = torch.tensor([place[key] for _, place, key in places], dtype=torch.float64, device="cpu")
            moment.counts[slot] = Picked([(tuple(number for number, *_ in places), values)])
        windows, digester = self.chosen.windows, self._digester
        if windows is None or digester is None or not windows.is_due(step, before=before, on_host=digester.on_host):
            return moment, None
        return moment, digester.look()

    def pick(self, tensors: Iterable[Tensor | None]) -> Picked:
        """Copy the chosen elements of other tensors of the parameters' shapes, such as gradients; one for each parameter."""
        there = ((n, t) for n, t in zip(self.numbers, tensors, strict=True) if t is not None)
        return Picked([(numbers, self._copy(views)) for numbers, views, _ in self._viewed(there)])

    def _copy(self, views: list[Tensor]) -> Tensor:
        vector = torch.cat(views)
        return vector.cpu() if self.chosen.full else vector

    def _viewed(self, tensors: Iterable[tuple[int, Tensor]]) -> Iterator[tuple[Numbers, list[Tensor], bool]]:
        """Yield tensors of one format after the other as vectors of the chosen elements, and whether these are views."""
        for members in same_format(tensors).values():
            pairs = [self.chosen.columns[number].views(tensor) for number, tensor in members]
            numbers = tuple(number for number, _ in members)
            yield (
                self.numbers if numbers == self.numbers else numbers,
                [view for views, _ in pairs for view in views],
                all(are_views for _, are_views in pairs),
            )

    def _current(self) -> list[Joint]:
        """Return the views, made anew if a tensor is not where it was."""
        state = self._optimizer.state
        if (
            self._joints is None
            or any(parameter.data_ptr() != memory for parameter, memory in self._memory)
            or any(
                state.get(parameter) is not own or len(own or ()) != entries for parameter, own, entries in self._states
            )
            or any(self._optimizer.param_groups[number] is not group for number, group in self._groups)
            or any(place.get(key) is not t or t.data_ptr() != memory for place, key, t, memory in self._pins)
        ):
            self._joints = self._make()
        return self._joints

    def _make(self) -> list[Joint]:
        elementwise: dict[str, list[tuple[int, Tensor]]] = {PARAM: []}
        scalars: dict[str, list[tuple[int, Tensor]]] = {}
        counted: dict[str, list[tuple[int, Mapping[Any, Any], Any]]] = {}
        self._pins, self._states, self._groups, self._memory = [], [], [], []
        for number, (parameter, group) in self._parameters.items():
            elementwise[PARAM].append((number, parameter.detach()))
            self._memory.append((parameter, parameter.data_ptr()))
            own: Mapping[str, Any] | None = self._optimizer.state.get(parameter)
            self._states.append((parameter, own, len(own or ())))
            for key, value in state_of(self._optimizer, parameter, group, self._slot_names).items():
                slot, place = slot_name(key, self._slot_names), own or {}
                if key not in place:
                    place = self._optimizer.param_groups[group]
                    self._groups.append((group, place))
                if isinstance(value, Tensor):
                    self._pins.append((place, key, value, value.data_ptr()))
                    if value.shape == parameter.shape and value.dtype in DTYPES:
                        elementwise.setdefault(slot, []).append((number, value.detach()))
                    elif value.numel() == 1:
                        scalars.setdefault(slot, []).append((number, value.detach().reshape(1)))
                elif isinstance(value, int | float):
                    counted.setdefault(slot, []).append((number, place, key))
        self._counted = list(counted.items())
        joints: dict[object, Joint] = {}
        lasting = True
        for slot, tensors in elementwise.items():
            for numbers, views, are_views in self._viewed(tensors):
                lasting &= are_views
                self._joint(joints, slot, views[0]).add(Place(slot, False, numbers), views)
        for slot, tensors in scalars.items():
            for members in same_format(tensors).values():
                numbers, views = tuple(n for n, _ in members), [t for _, t in members]
                self._joint(joints, slot, views[0]).add(Place(slot, True, numbers), views)
        self._digester, held_lastingly = self._make_digester(elementwise)
        if not (lasting and held_lastingly):
            self._memory = [(parameter, -1) for parameter, _ in self._memory]  # copies are made anew at every look
        return list(joints.values())

    def _joint(self, joints: dict[object, Joint], slot: str, like: Tensor) -> Joint:
        """Return the joint of this format and device. Whole tensors of different slots are not joined: that would need their memory twice."""
        return joints.setdefault((like.dtype, like.device, slot if self.chosen.full else None), Joint())

    def _make_digester(self, elementwise: Mapping[str, list[tuple[int, Tensor]]]) -> tuple[Digester | None, bool]:
        windows = self.chosen.windows
        if windows is None:
            return None, True
        quantities: list[tuple[Named, Tensor]] = [
            ((number, slot), tensor)
            for slot, tensors in elementwise.items()
            for number, tensor in tensors
            if not self.chosen.columns[number].whole
        ]
        windows.include(quantities)
        ranges = windows.ranges
        pieces = [(name, *words(t, ranges[name])) for name, t in quantities if holdable(ranges, name)]
        lasting = all(is_view for *_, is_view in pieces)
        return Digester([(name, piece) for name, piece, _ in pieces]) if pieces else None, lasting


def slot_name(key: str, names: Mapping[str, str]) -> str:
    """Return the slot's name of a key of the state. `names` has those that differ."""
    slot = names.get(key, key).replace("/", ".")  # a slash parts the names of arrays
    return f"state {slot}" if slot in RESERVED_SLOTS else slot
