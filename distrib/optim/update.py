"""Makes new weights of the gradients: it clips, steps or skips, counts and averages."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distrib.optim.schedule import Factor

NORM_EVERY = 10
"""Steps between two measurements of the gradient's norm where nothing is clipped to it: each takes a pass over all gradients."""


class Update:
    """Takes one optimizer step at a time, and counts those that were applied and those that were skipped.

    Under float16 the loss scaler skips a step whose gradients overflowed. Then nothing may move:
    not the weights, not the optimizer's state, not the schedule, not the moving average.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Factor,
        scaler: torch.amp.GradScaler,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        ema: float | None = None,
    ) -> None:
        """`clip_norm`, `clip_value` and `ema` are the recipe's keys of these names in [training]."""
        self.optimizer, self.scaler, self.schedule = optimizer, scaler, schedule
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.clip_norm, self.clip_value = clip_norm, clip_value
        self.model = model
        self.average: AveragedModel | None = None
        if ema is not None:
            # With buffers: averaged weights need averaged running statistics, or a batch norm is off by what the weights moved.
            self.average = AveragedModel(model, multi_avg_fn=_moving_average(ema), use_buffers=True)
        self.applied = 0
        self.skipped = 0
        self.lr = float(optimizer.param_groups[-1]["lr"])
        """The learning rate that the last step used, of the parameters that no pattern of `optimizer.groups` takes.

        Where patterns take all of them, it is that of the last group.
        """
        self.loss_scale: float | None = None  # of the last step, under float16
        self.gradient_norm: Tensor | None = None  # of the last step, before clipping; None where it was not measured

    def scale(self, loss: Tensor) -> Tensor:
        """Return the loss to differentiate: under float16 it is multiplied by the loss scale."""
        return self.scaler.scale(loss)

    def step(self) -> bool:
        """Apply or skip one update; return whether the weights moved."""
        factor = self.schedule(self.applied)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.lr = float(self.optimizer.param_groups[-1]["lr"])
        self._clip()
        applied = self._scaled_step()
        if applied:
            self.applied += 1
            if self.average is not None:
                self.average.update_parameters(self.model)
        else:
            self.skipped += 1
        return applied

    def is_finite(self) -> bool:
        """Return whether all trained weights and their moving average are finite numbers. Waits for the device."""
        averaged = [] if self.average is None else [p for p in self.average.parameters() if p.requires_grad]
        return bool(torch.stack([tensor.isfinite().all() for tensor in (*self.parameters, *averaged)]).all())

    def _clip(self) -> None:
        self.gradient_norm = None
        measured = (self.applied + self.skipped) % NORM_EVERY == 0
        if self.clip_norm is None and self.clip_value is None:
            if measured:
                self.gradient_norm = self._norm() / self.scaler.get_scale()  # the scale is 1 without a scaler
            return
        self.scaler.unscale_(self.optimizer)  # thresholds are meant for true gradients
        if self.clip_norm is not None:
            self.gradient_norm = nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        if self.clip_value is not None:
            if measured:
                self.gradient_norm = self._norm()
            nn.utils.clip_grad_value_(self.parameters, self.clip_value)

    def _norm(self) -> Tensor:
        """Return the 2-norm of all gradients together, on their device."""
        return nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])

    def _scaled_step(self) -> bool:
        if not self.scaler.is_enabled():
            self.optimizer.step()
            return True
        # A fused optimizer is called even when it must not move anything, and allocates what its first
        # step needs: SGD's momentum_buffer comes from empty_like, and the kernel then returns without
        # writing it. So state that appeared in a skipped step is taken back: absent stays absent.
        without_state = [p for p in self.parameters if not self.optimizer.state.get(p)]
        before = self.loss_scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # The scale shrinks after an overflow, and only then; at zero it has nowhere to shrink to.
        applied = self.scaler.get_scale() >= before > 0.0
        if not applied:
            for parameter in without_state:
                self.optimizer.state.pop(parameter, None)
        return applied


def _moving_average(decay: float) -> Callable[..., None]:
    """Return torch's exponential moving average for lists of tensors of one dtype.

    Integers, such as indices and counts, are copied.
    """
    average = cast(Callable[..., None], get_ema_multi_avg_fn(decay))

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor | int) -> None:
        if averaged[0].is_floating_point():
            average(averaged, current, count)
            return
        for there, here in zip(averaged, current, strict=True):
            there.copy_(here)

    return update
