"""SGD and Adam in plain torch, each with one deliberate error to choose.

Without an error they follow the formulas of torch.optim, one operation a line, with its names of options and state.
`fault` names the error, `since` is the first step that has it, and `only` is the number of the one tensor that has it. Each
error is a short branch beside the line that does the same correctly.
"""

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor

SCALE = 1024.0
"""The loss scale for the errors that unscale twice or not at all."""


class Faulty(torch.optim.Optimizer):
    """The common part of both: the loop over tensors, and the errors of a gradient, a rate or an element."""

    start: ClassVar[dict[str, Any]]  # the options with their defaults

    def __init__(
        self,
        params: Iterable[Any],
        fault: str = "",
        *,
        since: int = 1,
        only: int | None = None,
        scaled: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(params, {**self.start, **options})
        self.fault, self.since, self.only = fault, since, only
        self.taken = 0
        self.counted = 0  # the steps of all tensors together, for the fault "one counter for all"
        self.last_lr: dict[Tensor, float] = {}
        self.last_gradients: dict[Tensor, Tensor] = {}
        if scaled:  # this is how torch's GradScaler tells the scale to an optimizer that unscales by itself
            self.grad_scale = torch.tensor(SCALE)
        if fault == "buffer allocated beforehand":
            for p in (p for group in self.param_groups for p in group["params"]):
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        del closure
        self.taken += 1
        tensors = [(number, p) for number, group in enumerate(self.param_groups) for p in group["params"]]
        for position, (number, p) in enumerate(tensors):
            on = self.taken >= self.since and self.only in (None, position)
            fault = self.fault if on else ""
            group = self.param_groups[0 if fault == "options of the first group" else number]
            g = self.gradient(p, fault)
            self.last_gradients[p] = p.grad.clone()
            self.move(p, g, self.state[p], group, self.rate(p, group, fault), fault)
            if fault == "bit flip" and self.taken == self.since:
                flip(p, 7)
            if fault == "parameter rounded":
                p.copy_(p.bfloat16())
            self.last_lr[p] = group["lr"]

    def move(self, p: Tensor, g: Tensor, state: Any, group: Any, lr: float, fault: str) -> None:
        """Take one step of one tensor."""
        raise NotImplementedError

    def gradient(self, p: Any, fault: str) -> Tensor:
        g: Any = self.last_gradients.get(p) if fault == "stale gradient" else None
        g = p.grad if g is None else g
        scale: Tensor | None = getattr(self, "grad_scale", None)
        if scale is not None and fault != "not unscaled":
            g = g / scale
        if fault == "unscaled twice":
            g = g / SCALE
        if fault == "clipped by value":
            g = g.clamp(-0.5, 0.5)
        if fault == "clipped by norm":
            g = g * min(1.0, 0.5 / float(g.norm()))
        return g

    def rate(self, p: Tensor, group: Any, fault: str) -> float:
        lr: float = group["lr"]
        if fault == "lr one step late":
            lr = self.last_lr.get(p, lr)
        if fault == "lr 0.1 % off":
            lr = lr * 1.001
        if fault == "lr rounded":
            lr = float(torch.tensor(lr, dtype=torch.float32))
        return lr


class FaultySGD(Faulty):
    """SGD as torch.optim has it: b <- mu b + (1 - tau) (g + wd p), the first time b <- g + wd p; p <- p - lr b."""

    start: ClassVar[dict[str, Any]] = {
        "lr": 0.1,
        "momentum": 0.0,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
        "maximize": False,
    }

    def move(self, p: Tensor, g: Tensor, state: Any, group: Any, lr: float, fault: str) -> None:
        decay: float = group["weight_decay"]
        late = fault in ("maximize after decay", "maximize by negative lr", "maximize ignored")
        if group["maximize"] and not late:
            g = -g
        if fault == "decay twice":
            g = g + 2 * decay * p
        elif fault == "decay times lr":
            g = g + lr * decay * p
        elif fault not in ("decay missing", "decay decoupled", "decay after momentum", "decay on new parameters"):
            g = g.add(p, alpha=decay)
        if fault == "maximize after decay" and group["maximize"]:
            g = -g
        if fault == "maximize by negative lr" and group["maximize"]:
            lr = -lr
        d = self.direction(p, g, state, group, lr, fault) if group["momentum"] else g
        if fault == "decay after momentum":
            d = d + decay * p
        if fault == "decay decoupled":
            p.mul_(1 - lr * decay)
        p.add_(d, alpha=-lr)
        if fault == "decay on new parameters":
            p.mul_(1 - lr * decay)

    def direction(self, p: Tensor, g: Tensor, state: Any, group: Any, lr: float, fault: str) -> Tensor:
        mu, left = group["momentum"], 1 - group["dampening"]
        old: Tensor | None = state.get("momentum_buffer")
        if fault == "momentum 0.1 % off":
            mu = mu * 1.001
        if fault == "lr inside the buffer" and old is not None:
            old = old * (self.last_lr[p] / lr)  # mu v + lr g with v = lr b
        if fault == "buffer from zero" and old is None:
            old = torch.zeros_like(g)
        if fault == "buffer times lr":
            new = lr * g if old is None else mu * old + lr * g
        elif old is None:
            new = g.clone()
        elif fault == "dampening missing":
            new = mu * old + g
        elif fault == "dampening on the buffer":
            new = left * mu * old + g
        elif fault == "dampening on both":
            new = left * (mu * old + g)
        elif fault == "dampening is the momentum":
            new = mu * old + (1 - mu) * g
        else:
            new = old.mul(mu).add(g, alpha=left)
        if fault == "state rounded":
            new = new.bfloat16().to(g.dtype)
        state["momentum_buffer"] = new.bfloat16() if fault == "state in bfloat16" else new
        if fault == "buffer times lr":
            return g + mu * new / lr if group["nesterov"] else new / lr
        if fault == "state in bfloat16":
            new = new.bfloat16().to(g.dtype)
        if fault == "nesterov unasked":
            return g + mu * new
        if not group["nesterov"] or fault == "nesterov missing":
            return new
        if fault == "nesterov twice":
            return g + mu * (g + mu * new)
        if fault == "nesterov with the old buffer":
            return g if old is None else g + mu * old
        if fault == "nesterov rearranged":  # not an error
            return mu * mu * (old if old is not None else torch.zeros_like(g)) + (1 + mu) * g
        return g.add(new, alpha=mu)


class FaultyAdam(Faulty):
    """Adam as torch.optim has it: p <- p - lr / (1 - b1^t) m / (sqrt(v) / sqrt(1 - b2^t) + eps).

    m and v are the moving averages of g and g².
    """

    start: ClassVar[dict[str, Any]] = {
        "lr": 1e-2,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "amsgrad": False,
        "maximize": False,
        "decoupled_weight_decay": False,
    }

    def move(self, p: Tensor, g: Tensor, state: Any, group: Any, lr: float, fault: str) -> None:
        if not state:
            names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if group["amsgrad"] else [])]
            state |= {"step": torch.tensor(0.0), **{name: torch.zeros_like(p) for name in names}}
        decay: float = group["weight_decay"]
        up: bool = group["maximize"]
        sign = -1.0 if up and fault not in ("maximize ignored", "maximize after decay") else 1.0
        decoupled = bool(group["decoupled_weight_decay"])
        amount = 0.0 if fault in ("decay missing", "decay after moments") else decay
        amount = 2 * decay if fault == "decay twice" else amount
        if fault == "decay of the other kind":
            decoupled = not decoupled
        after = fault in ("decay on new parameters", "decay beside the step")
        if decoupled and not after:
            factor = -lr if fault == "maximize flips decay" and up else lr
            factor = {"decay not times lr": 1.0, "decay times lr": lr * lr}.get(fault, factor)
            p.mul_(1 - factor * amount)
        g = sign * g
        if amount and not decoupled:
            g = g.add(p, alpha=lr * amount if fault == "decay times lr" else amount)
        if fault == "maximize after decay" and up:
            g = -g
        direction = self.direction(g, state, group, fault)
        if fault == "decay after moments":
            direction = direction + decay * p
        if fault == "decay beside the step":  # not an error
            direction = direction + decay * p
        p.add_(direction, alpha=-lr)
        if fault == "decay on new parameters":
            p.mul_(1 - lr * decay)

    def direction(self, g: Tensor, state: Any, group: Any, fault: str) -> Tensor:
        t = self.count(state, fault)
        b1, b2 = betas(group["betas"], fault)
        m: Tensor = state["exp_avg"]
        v: Tensor = state["exp_avg_sq"]
        old_v = v.clone()
        m.mul_(b1).add_(g, alpha=1.0 if fault == "1 - beta1 missing" else 1 - b1)
        squares = g * g if fault != "second moment of |g|" else g.abs()
        v.mul_(b2).add_(squares, alpha=1.0 if fault == "1 - beta2 missing" else 1 - b2)
        if fault == "state rounded":
            m.copy_(m.bfloat16())
        if fault == "second moment rounded":
            v.copy_(v.bfloat16())
        b1, b2 = (b1, b2 * 1.0001) if fault == "beta2 off in the correction" else (b1, b2)
        t += {"step one ahead": 1, "step one behind": -1 if t > 1 else 0}.get(fault, 0)
        both = fault == "both corrections missing"
        c1 = 1.0 if both or fault == "first correction missing" else 1 - b1**t
        c2 = 1.0 if both or fault == "second correction missing" else 1 - b2**t
        if group["amsgrad"]:
            v = self.largest(v, old_v, state, c2, fault)
            c2 = 1.0 if fault == "amsgrad corrects first" else c2
        return m.div(c1).div_(denominator(v, c2, group["eps"], fault))

    def count(self, state: Any, fault: str) -> int:
        self.counted += 1
        if fault == "one counter for all":
            state["step"].fill_(self.counted)
        elif fault == "step counted twice":
            state["step"].add_(2)
        elif fault != "step not counted":
            state["step"].add_(1)
        return max(1, int(state["step"]))

    def largest(self, v: Tensor, old_v: Tensor, state: Any, c2: float, fault: str) -> Tensor:
        kept: Tensor = state["max_exp_avg_sq"]
        if fault == "amsgrad corrects first":
            v = v / c2
        if fault == "amsgrad keeps the last":
            kept.copy_(v)
        else:
            torch.maximum(kept, old_v if fault == "amsgrad one step late" else v, out=kept)
        return v if fault == "amsgrad unused" else kept


def betas(right: tuple[float, float], fault: str) -> tuple[float, float]:
    b1, b2 = right
    wrong = {
        "betas swapped": (b2, b1),
        "beta1 0.1 % off": (b1 * 1.001, b2),
        "beta1 1 % off": (b1 * 1.01, b2),
        "beta2 0.1 % off": (b1, b2 * 0.999),
        "beta2 1 % off": (b1, b2 * 0.99),
    }
    return wrong.get(fault, right)


def denominator(v: Tensor, c2: float, eps: float, fault: str) -> Tensor:
    if fault == "eps 1 % off":
        eps = 1.01 * eps
    if fault == "eps in the root":
        return (v / c2 + eps).sqrt()
    if fault == "eps squared in the root":
        return (v / c2 + eps * eps).sqrt()
    if fault == "eps before the correction":
        return (v.sqrt() + eps) / c2**0.5
    if fault == "eps missing":
        return (v / c2).sqrt().clamp(min=torch.finfo(v.dtype).tiny)
    if fault == "root of the correction missing":
        return v.sqrt() / c2 + eps
    if fault == "correction in the root":  # not an error
        return (v / c2).sqrt() + eps
    return v.sqrt().div_(c2**0.5).add_(eps)


def flip(p: Tensor, element: int) -> None:
    """Turn one bit in the middle of the mantissa of one element."""
    bits = {torch.float64: (torch.int64, 30), torch.float32: (torch.int32, 12), torch.bfloat16: (torch.int16, 6)}
    integer, bit = bits[p.dtype]
    p.view(-1).view(integer)[element] ^= 1 << bit
