"""An optimizer of torch's with mistakes in its step. It has the options, the state and the kernels of torch's own.

A mistake is a generator: what it does before it yields comes before torch's step of a tensor, and the rest after it. So a
mistake can change what torch's kernel reads, or undo, repeat and spoil what the kernel did.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from tests.crosscheck.faulty import FaultyAdam, FaultySGD

HALVES = (torch.bfloat16, torch.float16)
Store = Callable[[Tensor, torch.dtype], Tensor]
"""Rounds wide numbers to a format."""


def to_nearest(wide: Tensor, dtype: torch.dtype) -> Tensor:
    return wide.to(dtype)


@dataclass
class Step:
    """One step of one tensor, as a mistake sees it."""

    p: Tensor
    grad: Tensor
    """What torch's kernel reads as the gradient; the recorded one stays as it is."""
    state: dict[str, Any]
    options: dict[str, Any]
    """What torch's kernel reads as options; the recorded ones stay as they are."""
    number: int
    """Counted from 1."""
    memory: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the mistake keeps of this tensor from one step to the next."""
    formula: str = ""
    """A mistake of `tests.crosscheck.faulty`, whose formula then takes the step."""
    wide: torch.dtype | None = None
    """The format of copies in which the step is taken, if it is not taken in place."""
    store: Store = to_nearest
    """How the copies are rounded when they are stored."""

    def slots(self) -> dict[str, Tensor]:
        """Return the state that has a number for each element of the parameter."""
        return {name: slot for name, slot in self.state.items() if name != "step" and isinstance(slot, Tensor)}


Mistake = Callable[[Step], Iterator[None]]


@dataclass(frozen=True)
class Planted:
    """A mistake, and where it is."""

    name: str
    mistake: Mistake
    when: Literal["step", "start", "between"] = "step"
    """In the steps, or before the first one, or between steps; the latter two see no gradient and never yield."""
    tensor: int | None = None
    """The number of the only tensor that has it."""
    since: int = 1
    """The first step that has it."""
    wrong: Mapping[str, float] = field(default_factory=dict[str, float], hash=False)
    """By hyperparameter: what it, or 1 - beta, is multiplied by, where the mistake is nothing but a wrong number."""

    def __str__(self) -> str:
        where = "" if self.tensor is None else f", tensor {self.tensor} only"
        return f"{self.name}{where}{'' if self.since == 1 else f', from step {self.since}'}"

    def is_on(self, step: int, tensor: int) -> bool:
        return step >= self.since and self.tensor in (None, tensor)


@dataclass
class _Tensor:
    """A parameter, with an optimizer of torch's own that steps it alone."""

    p: Tensor
    right: torch.optim.Optimizer
    memory: dict[str, dict[str, Any]] = field(default_factory=dict[str, dict[str, Any]])


class Mistaken(torch.optim.Optimizer):
    """Steps each tensor by an optimizer of torch's own class, with mistakes around it."""

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        kind: Callable[..., torch.optim.Optimizer],
        mistakes: Iterable[Planted],
        **options: Any,
    ) -> None:
        super().__init__(groups, kind([torch.zeros(1)], **options).defaults)
        self.kind, self.mistakes, self.taken = kind, tuple(mistakes), 0
        self._tensors = [_Tensor(p, kind([p], **options)) for group in self.param_groups for p in group["params"]]
        self.between()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        del closure
        self.taken += 1
        for number, (tensor, options) in enumerate(self._each()):
            assert tensor.p.grad is not None
            step = Step(tensor.p, tensor.p.grad.clone(), self.state[tensor.p], options, self.taken)
            with ExitStack() as stack:
                for planted in self.mistakes:
                    if planted.when == "step" and planted.is_on(self.taken, number):
                        stack.enter_context(_around(planted, step, tensor))
                self._take(step, tensor)

    @torch.no_grad()
    def between(self) -> None:
        """Let the mistakes act that act between steps, or those that act before the first one."""
        when = "between" if self.taken else "start"
        for number, (tensor, options) in enumerate(self._each()):
            for planted in self.mistakes:
                if planted.when == when and (planted.is_on(self.taken, number) or not self.taken):
                    step = Step(tensor.p, tensor.p, self.state[tensor.p], options, self.taken)
                    for _ in planted.mistake(step):
                        raise AssertionError(f"{planted}: there is no step to yield to")

    def _each(self) -> Iterator[tuple[_Tensor, dict[str, Any]]]:
        """Yield each tensor and a copy of the options of its group."""
        groups = [group for group in self.param_groups for _ in group["params"]]
        for tensor, group in zip(self._tensors, groups, strict=True):
            yield tensor, {name: value for name, value in group.items() if name != "params"}

    def _take(self, step: Step, tensor: _Tensor) -> None:
        """Take the step, by torch or by a formula, in place or in copies of a wider format."""
        last = tensor.memory.setdefault("formula", {})
        if step.formula and step.wide is None and step.options.get("fused") and step.p.dtype in HALVES:
            step.wide = torch.float32  # as the fused kernels do
        if step.wide is None:
            own = _by_formula(step, step.p.detach(), last) if step.formula else tensor.right
            p, state = own.param_groups[0]["params"][0], step.state
        else:
            p = step.p.to(step.wide)
            state = {name: slot if name == "step" else slot.to(step.wide) for name, slot in step.state.items()}
            own = _by_formula(step, p, last) if step.formula else self.kind([p])
        if not step.formula:
            own.param_groups[0].update(step.options)
        own.state[p] = state
        consumed, p.grad = p.grad, step.grad.to(p.dtype)
        own.step()
        p.grad = consumed
        last |= {"lr": step.options["lr"], "grad": step.grad.clone()}
        if step.wide is not None:
            step.p.copy_(step.store(p, step.p.dtype))
            for name, slot in own.state[p].items():
                step.state[name] = slot if name == "step" else step.store(slot, step.p.dtype)


def _by_formula(step: Step, p: Tensor, last: dict[str, Any]) -> torch.optim.Optimizer:
    kind = FaultyAdam if "betas" in step.options else FaultySGD
    own = kind([p], step.formula, **{name: value for name, value in step.options.items() if name in kind.start})
    own.taken = step.number - 1
    own.last_lr = {p: last.get("lr", step.options["lr"])}
    own.last_gradients = {p: last["grad"].to(p.dtype)} if last else {}
    return own


@contextmanager
def _around(planted: Planted, step: Step, tensor: _Tensor) -> Generator[None]:
    memory = tensor.memory.setdefault(planted.name, {})
    step.memory = memory
    acts = planted.mistake(step)
    next(acts)
    yield
    step.memory = memory
    for _ in acts:
        raise AssertionError(f"{planted}: it yields twice")
