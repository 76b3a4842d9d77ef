"""The mistakes that a generator plants. Each is a generator function over a `Step`: see `mistaken`.

Mistakes of the formula itself are those of `tests.crosscheck.faulty`, by name.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from tests.crosscheck.generated.mistaken import Step

LAST_BLOCK = 8
"""Elements that a kernel forgets which works in blocks."""


def hyperparameter(step: Step, *, name: str, factor: float) -> Iterator[None]:
    """A hyperparameter is another number. A beta is off in 1 - beta, which is what the average gives to the new value."""
    if name in ("beta1", "beta2"):
        betas, position = list(step.options["betas"]), int(name[-1]) - 1
        betas[position] = max(0.0, 1 - (1 - betas[position]) * factor)
        step.options["betas"] = tuple(betas)
    else:
        step.options[name] *= factor
    yield


def flag(step: Step, *, name: str) -> Iterator[None]:
    """A flag is read as its opposite."""
    step.options[name] = not step.options[name]
    yield


def formula(step: Step, *, fault: str) -> Iterator[None]:
    step.formula = fault
    yield


def rate_one_step_late(step: Step) -> Iterator[None]:
    step.options["lr"], step.memory["lr"] = step.memory.get("lr", step.options["lr"]), step.options["lr"]
    yield


def gradient_times(step: Step, *, factor: float) -> Iterator[None]:
    """The gradient is unscaled twice, divided by the number of ranks twice, or clipped inside the optimizer."""
    step.grad.mul_(factor)
    yield


def gradient_stale(step: Step) -> Iterator[None]:
    step.grad, step.memory["grad"] = step.memory.get("grad", step.grad), step.grad.clone()
    yield


def gradient_kept(step: Step) -> Iterator[None]:
    """The gradient of the step before was not set to zero."""
    new = step.grad.clone()
    step.grad.add_(step.memory.get("grad", torch.zeros_like(new)))
    step.memory["grad"] = new
    yield


def gradient_clamped(step: Step) -> Iterator[None]:
    """Elements of more than twice the mean size are clamped."""
    limit = 2 * float(step.grad.abs().mean(dtype=torch.float64))
    step.grad.clamp_(-limit, limit)
    yield


def gradient_rounded(step: Step) -> Iterator[None]:
    step.grad.copy_(narrow(step.grad))
    yield


def moved_twice(step: Step) -> Iterator[None]:
    """The parameter moves twice as far as it should; the state is right."""
    old = step.p.clone()
    yield
    step.p.add_(step.p - old)


def decay_constant(step: Step) -> Iterator[None]:
    """The decay is subtracted as a number, not in proportion to the parameter."""
    amount, step.options["weight_decay"] = step.options["weight_decay"], 0.0
    yield
    step.p.sub_(step.options["lr"] * amount)


def decay_by_sign(step: Step) -> Iterator[None]:
    """The decay is that of an absolute value, not of a square."""
    old, amount = step.p.sign(), step.options["weight_decay"]
    step.options["weight_decay"] = 0.0
    yield
    step.p.sub_(step.options["lr"] * amount * old)


def decay_of_last_parameter(step: Step) -> Iterator[None]:
    """The decay is that of the parameter one step ago, and decoupled."""
    old, amount = step.memory.get("p", step.p.clone()), step.options["weight_decay"]
    step.memory["p"] = step.p.clone()
    step.options["weight_decay"] = 0.0
    yield
    step.p.sub_(step.options["lr"] * amount * old)


def decay_at_first_only(step: Step) -> Iterator[None]:
    if step.number > 1:
        step.options["weight_decay"] = 0.0
    yield


def truncated(step: Step) -> Iterator[None]:
    """The step is computed in a wider format, and all results are truncated, not rounded, when they are stored."""
    step.wide, step.store = torch.float64, truncate
    yield


def rounded_at_random(step: Step) -> Iterator[None]:
    """The step is computed in a wider format, and rounded up or down at random."""
    step.wide, step.store = torch.float64, round_at_random
    yield


def param_rounded(step: Step) -> Iterator[None]:
    yield
    step.p.copy_(narrow(step.p))


def change_rounded(step: Step) -> Iterator[None]:
    """The update is computed in a narrower format, the parameter is not."""
    old = step.p.clone()
    yield
    step.p.copy_(old + narrow(step.p - old))


def state_rounded(step: Step) -> Iterator[None]:
    yield
    for slot in step.slots().values():
        slot.copy_(narrow(slot))


def state_not_kept(step: Step) -> Iterator[None]:
    """The state that a step starts from is that of a first step, each time."""
    yield
    for slot in step.slots().values():
        slot.zero_()


def state_starts_at_one(step: Step) -> Iterator[None]:
    """The second moment is filled with ones before the first step."""
    make_state(step, count=0)
    step.state["exp_avg_sq"].fill_(1.0)
    yield from ()


def count_starts_at_one(step: Step) -> Iterator[None]:
    """Adam's state is made beforehand, with a count that is one ahead."""
    make_state(step, count=1)
    yield from ()


def make_state(step: Step, count: int) -> None:
    names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if step.options["amsgrad"] else [])]
    step.state |= {"step": torch.tensor(float(count)), **{name: torch.zeros_like(step.p) for name in names}}


def count_twice(step: Step) -> Iterator[None]:
    yield
    step.state["step"] += 1


def frozen(step: Step) -> Iterator[None]:
    """The state moves, and the parameter does not."""
    old = step.p.clone()
    yield
    step.p.copy_(old)


def element_frozen(step: Step) -> Iterator[None]:
    old = step.p.view(-1)[0].clone()
    yield
    step.p.view(-1)[0] = old


def last_block_forgotten(step: Step) -> Iterator[None]:
    """The last elements of a tensor keep their parameters and their state."""
    tail = {name: value.view(-1)[-LAST_BLOCK:].clone() for name, value in (step.slots() | {"": step.p}).items()}
    yield
    step.p.view(-1)[-LAST_BLOCK:] = tail[""]
    for name, slot in step.slots().items():
        slot.view(-1)[-LAST_BLOCK:] = tail.get(name, torch.zeros(LAST_BLOCK, dtype=slot.dtype))


def elements_swapped(step: Step) -> Iterator[None]:
    """Two elements have each other's gradient, as with a wrong stride."""
    step.grad.view(-1)[:2] = step.grad.view(-1)[:2].flip(0)
    yield


def filled(step: Step) -> Iterator[None]:
    """The parameter is overwritten with a constant."""
    yield
    step.p.fill_(1.0)


def param_nudged_between(step: Step) -> Iterator[None]:
    """Something moves one element of the parameter by one place of the format."""
    first = step.p.view(-1)[:1]
    first.copy_(torch.nextafter(first, torch.full_like(first, torch.inf)))
    yield from ()


def param_clamped_between(step: Step) -> Iterator[None]:
    step.p.clamp_(-0.3, 0.3)
    yield from ()


def state_scaled_between(step: Step) -> Iterator[None]:
    for slot in step.slots().values():
        slot.mul_(0.5)
    yield from ()


def state_reset_between(step: Step) -> Iterator[None]:
    for slot in step.slots().values():
        slot.zero_()
    yield from ()


def narrow(value: Tensor) -> Tensor:
    """Round to a format of half the width, or of eight bits in the case of a half."""
    narrower = {torch.float64: torch.float32, torch.float32: torch.bfloat16}
    return value.to(narrower.get(value.dtype, torch.float8_e4m3fn)).to(value.dtype)


def truncate(wide: Tensor, dtype: torch.dtype) -> Tensor:
    nearest = wide.to(dtype)
    inward = torch.nextafter(nearest, torch.zeros_like(nearest))
    return torch.where(nearest.to(wide.dtype).abs() > wide.abs(), inward, nearest)


def round_at_random(wide: Tensor, dtype: torch.dtype) -> Tensor:
    inward = truncate(wide, dtype)
    far = torch.full_like(inward, torch.inf).copysign(wide.to(dtype))
    outward = torch.nextafter(inward, far)
    gap = (outward.to(wide.dtype) - inward.to(wide.dtype)).abs()
    part = (wide - inward.to(wide.dtype)).abs() / gap
    generator = torch.Generator().manual_seed(int(wide.numel()))
    up = torch.rand(wide.shape, generator=generator, dtype=wide.dtype) < part
    return torch.where(up, outward, inward)
