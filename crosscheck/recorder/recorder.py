"""The recorder: two hooks on an optimizer, and a trace that grows part by part."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor

from crosscheck.errors import UnsupportedOptimizer
from crosscheck.recorder import capture, digests, optimizer_info
from crosscheck.recorder.claims import expect_checkable
from crosscheck.recorder.followed import Followed
from crosscheck.recorder.hooks import watch_steps
from crosscheck.recorder.pending import Attempt, Pending
from crosscheck.recorder.scaler_watch import ScalerWatch
from crosscheck.trace.format import AVERAGE, PARAM, Claims, Header, Pass
from crosscheck.trace.writer import SegmentWriter


@dataclass(slots=True)
class _Look:
    """What is seen of one step, by tensor: the sampled coordinates, or all elements."""

    full: bool
    averages: list[Tensor | None]  # that no update has touched yet
    backward: list[Tensor | None]  # gradients as backward left them, where that was seen
    grads: list[Tensor | None] = field(default_factory=list[Tensor | None])  # as consumed
    before: list[capture.Moment] = field(default_factory=list[capture.Moment])


class Recorder:
    """Records what an optimizer consumed and what it made of it, step by step.

    Works in any loop that calls `optimizer.step()`, with or without closure; wrappers of Accelerate are
    looked through. Under data parallelism all ranks should take the same step: record on rank 0, or on every rank to have that
    checked as well. Not for sharded
    optimizers or parameters (FSDP, DTensor, ZeRO): these are refused by name. A gradient that no rule covers, a sparse
    or complex one, ends the record with a warning, and training goes on.

        with Recorder(optimizer, "trace"):
            train()

    Hooks of others that change gradients before the step must be registered before the recorder's.
    A step costs a few hundred small copies and a digest of what is not copied; a step that is recorded in full holds a second copy of
    parameters, gradients and state on the host until it is written.
    """

    def __init__(
        self,
        optimizer: Any,
        path: str | Path,
        *,
        steps: Literal["sampled", "all"] | Iterable[int] = "sampled",
        coordinates: int = 256,
        rule: str = "auto",
        slots: Mapping[str, str] | None = None,
        named_parameters: Iterable[tuple[str, Tensor]] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        average: Iterable[tuple[Tensor, Tensor]] = (),
        claims: Claims | None = None,
        append: bool = False,
        first_step: int = 1,
        world_size: int | None = None,
        rank: int | None = None,
        seed: int | None = None,
    ) -> None:
        """Attach to `optimizer` and open the trace folder `path`.

        Args:
            optimizer: A torch optimizer, or Accelerate's wrapper of one.
            path: The trace's folder; refused if it holds a trace, unless `append`.
            steps: Steps recorded in full, counted from 1. `sampled`: the first three, the one after a skip
                and every hundredth; `all`; or the numbers themselves.
            coordinates: Elements of each tensor recorded at every step, at fixed positions.
            rule: The torch optimizer whose formula is claimed: `sgd`, `adam`, `adamw`; `auto` goes by the class.
            slots: The rule's names of state -> this optimizer's, where they differ:
                `{"exp_avg": "m", "exp_avg_sq": "v"}`.
            named_parameters: Names for the tensors, such as `model.named_parameters()`; otherwise those the
                optimizer was built with, otherwise positions.
            scaler: The loss scaler, whose scale is then recorded where the optimizer is not told it, and whose skipped
                steps are noticed. Other optimizers may share it.
            average: Pairs of a parameter and its moving average (`torch.optim.swa_utils.AveragedModel`), which is
                then recorded as one more slot.
            claims: What happens around the optimizer: clipping, schedule, moving average, options by group. The
                replay holds the record to it; what is not claimed is not checked. Parameters or state that the
                trainer itself changes between steps are named here too (`Claims(between=("param",))`), or the replay
                finds that they changed.
            append: Continue an existing trace with a segment of its own: a resumed run.
            first_step: The number of the first step to come.
            world_size: Ranks of the run; left out, those of torch.distributed if it is initialized.
            rank: This one, likewise. If several ranks record, each into the same `path`, they write one trace, and the replay
                compares them.
            seed: The run's seed, for the header.

        Raises:
            UnsupportedOptimizer: No rule covers this optimizer or one of its tensors.
            TraceError: The folder cannot be written, or holds a trace; or no replay could check one of the claims.
        """
        self.optimizer = optimizer_info.unwrap(optimizer)
        chosen = optimizer_info.choose_rule(self.optimizer, rule)
        if isinstance(steps, str) and steps not in ("sampled", "all"):
            raise ValueError(f"steps={steps!r}: accepted are 'sampled', 'all' and step numbers")
        if coordinates < 1:
            raise ValueError(f"coordinates={coordinates}: at least 1 element of each tensor is needed")
        self._steps = steps if isinstance(steps, str) else frozenset(steps)
        self._scaler = scaler
        self._slot_names = {theirs: ours for ours, theirs in (slots or {}).items()}
        names = {id(parameter): name for name, parameter in named_parameters or ()}
        self._followed = Followed(self.optimizer, names, coordinates)
        self._average = {id(parameter): averaged for parameter, averaged in average}
        self.step = first_step - 1
        """The number of the last step that was recorded."""
        self._attempt: Attempt | None = None  # that has not ended yet
        self._sight: digests.Sight | None = None  # before it
        self._looks: list[_Look] = []  # at the coming step, or at its backward
        self._backward_norm: Tensor | None = None
        self._unaveraged: list[tuple[bool, list[capture.Moment]]] = []  # full?, after the step
        self._after_skip = self._loaded = self._closed = False
        self._pending = Pending()
        if claims is not None:
            expect_checkable(
                claims,
                self._followed.infos,
                [optimizer_info.options_of(group) for group in self.optimizer.param_groups],
                fresh=first_step == 1 and claims.applied == 0,
                averaged=bool(self._average),
            )
        rank, world_size = optimizer_info.place_of(rank, world_size)
        header = Header(
            rule=chosen,
            optimizer=f"{type(self.optimizer).__module__}.{type(self.optimizer).__qualname__}",
            first_step=first_step,
            coordinates=coordinates,
            world_size=world_size,
            rank=rank,
            seed=seed,
            attached_with_state=any(self.optimizer.state.values()),
            claims=claims,
            scaler=optimizer_info.scaler_of(scaler),
            versions=optimizer_info.versions(),
        )
        self._writer = SegmentWriter(Path(path), header, append=append)
        self._hooks = [
            *watch_steps(self.optimizer, self._see_before, self._on_stepped),
            self.optimizer.register_load_state_dict_post_hook(self._on_loaded),
        ]
        self._skip_noticed = False  # and the trainer has not told of it
        self._scaler_watch: ScalerWatch | None = None
        if scaler is not None and scaler.is_enabled():
            self._scaler_watch = ScalerWatch(scaler, self.optimizer)
            self._scaler_watch.start(lambda: self.step, self._on_skipped)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Commit what waits, mark the end, detach. Closing twice is fine."""
        self._end()
        self._detach()

    def _end(self, stopped: str | None = None) -> None:
        """Commit what waits and mark the end. `stopped`: why the recorder cannot go on."""
        if not self._closed:
            self._closed = True
            self._settle(to_commit=True)
            self._writer.close(self.step, stopped)

    def flush(self) -> None:
        """Commit what waits, and go on. Without it a killed run loses up to a part's worth of steps.

        To be called between two steps, when the moving average has followed: before a checkpoint is written, so that
        a run that continues there continues a trace that reaches as far. Raises OSError.
        """
        if not self._closed:
            self._settle(to_commit=True)

    def _stop(self, error: UnsupportedOptimizer) -> None:
        """End the record before a step that cannot be recorded; training goes on. The hooks do nothing from here on."""
        self._attempt = None
        self._end(str(error))
        warnings.warn(f"crosscheck: the record ends with step {self.step}: {error}", stacklevel=2)

    def _detach(self) -> None:
        self._closed = True
        for hook in self._hooks:
            hook.remove()
        if self._scaler_watch is not None:
            self._scaler_watch.remove()

    def after_backward(self) -> None:
        """Record the gradients as `backward` left them: averaged over ranks, times the loss scale, not yet clipped.

        A second point of capture, to be called once a step, before anything touches the gradients. With it the
        replay can check what happens between backward and the optimizer, by the `claims`.
        """
        if not self._can_go_on():
            return
        grads = self._grads()
        self._looks = [_Look(full, self._averages(full), self._pick_each(grads, full)) for full in self._fullness()]
        self._backward_norm = capture.norm([grad for grad in grads if grad is not None], None)

    def add_pass(
        self,
        described: Pass,
        *,
        images: Tensor,
        labels: Tensor,
        winners: Sequence[Tensor],
        parameters: Mapping[str, Tensor],
    ) -> None:
        """Record what the gradients of the coming step were computed from, with these gradients, to recompute them.

        To be called where `after_backward` is.

        Args:
            described: The step, and what the trainer says of its pass.
            images: (B, H, W, C) uint8, the whole global batch as it was augmented.
            labels: (B,) int64.
            winners: For each max-pooling in turn, (B, C, H/2, W/2) uint8: see `Winners`.
            parameters: By name; those without a gradient are left out.
        """
        arrays = {"images": images, "labels": labels}
        arrays |= {f"winners/{number}": won for number, won in enumerate(winners)}
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                arrays |= {f"parameter/{name}": parameter.detach(), f"gradient/{name}": parameter.grad}
        self._writer.write_pass(described, {name: array.cpu().contiguous() for name, array in arrays.items()})

    def skipped(self, *, loss_scale: float | None = None) -> None:
        """Tell of a step that the loss scaler skipped without calling the optimizer, as it does unless fused.

        A recorder that was given the scaler notices by itself, and then there is nothing to tell. Otherwise it is to be
        called before the gradients are cleared. `loss_scale` is the one that overflowed, if the scaler was
        updated since.
        """
        if self._skip_noticed:
            self._skip_noticed = False
            return
        self._see_before(skipped=True)
        if self._attempt is not None and loss_scale is not None:
            self._attempt.scale = torch.tensor(loss_scale, dtype=torch.float64)
        self._see_after(skipped=True)

    def _on_skipped(self) -> None:
        self._see_before(skipped=True)
        self._see_after(skipped=True)
        self._skip_noticed = True

    def _on_stepped(self) -> None:
        found_inf = getattr(self.optimizer, "found_inf", None)
        self._see_after(skipped=found_inf is not None and bool(found_inf))

    def _on_loaded(self, _: torch.optim.Optimizer) -> None:
        self._loaded = True

    def _look_at_tensors(self) -> None:
        """Commit under the old list of tensors before another one is used. Raises UnsupportedOptimizer."""
        if not self._followed.changed():
            return
        self._commit()
        self._looks, self._backward_norm = [], None  # what was seen of others is of no use
        replaced = self._followed.follow()
        if replaced:
            more = f"; so it is with {len(replaced) - 1} more" if len(replaced) > 1 else ""
            warnings.warn(f"crosscheck: before step {self.step + 1} {replaced[0]}{more}", stacklevel=2)

    def _see_before(self, compiled: bool = False, *, skipped: bool = False) -> None:
        self._skip_noticed = False
        if not self._can_go_on():
            return
        scale: Tensor | None = getattr(self.optimizer, "grad_scale", None)
        grads = self._grads()
        wanted = self._fullness(skipped=skipped)
        if self._backward_norm is None:
            self._looks = [_Look(full, self._averages(full), [None] * len(grads)) for full in wanted]
        self._looks = [look for look in self._looks if look.full in wanted]
        for look in self._looks:
            look.before = self._moments(look.full)
            _set_averages(look.before, look.averages)
            look.grads = [
                None if grad is None else capture.consumed(grad, scale, self._at(number, look.full))
                for number, grad in zip(self._followed.active, grads, strict=True)
            ]
        self._sight = self._look_at_unsampled(self.step + 1)
        self._attempt = Attempt(
            step=self.step + 1,
            norm=capture.norm([grad for grad in grads if grad is not None], scale),
            backward_norm=self._backward_norm,
            scale=self._loss_scale(scale),
            overflow_elsewhere=self._scaler_watch is not None and self._scaler_watch.overflowed_elsewhere(),
            options=tuple(
                optimizer_info.options_of(group) | ({"compiled": True} if compiled else {})
                for group in self.optimizer.param_groups
            ),
        )

    def _can_go_on(self) -> bool:
        """Settle the step before, and return whether the coming one can be recorded. If it cannot, the record ends here."""
        if self._closed:
            return False
        self._settle()
        try:
            self._look_at_tensors()
            self._check_grads()
        except UnsupportedOptimizer as error:
            self._stop(error)
        return not self._closed

    def _check_grads(self) -> None:
        """Raises UnsupportedOptimizer, by name, for a gradient that the rules do not cover."""
        for number, grad in zip(self._followed.active, self._grads(), strict=True):
            if grad is not None and (grad.is_sparse or grad.is_complex()):
                name, kind = self._followed.infos[number].name, "sparse" if grad.is_sparse else "complex"
                raise UnsupportedOptimizer(f"the gradient of {name} is {kind}: the rules are for dense real ones")

    def _see_after(self, *, skipped: bool) -> None:
        attempt, looks, sight = self._attempt, self._looks, self._sight
        if attempt is None or sight is None:  # a step without a pre-hook: the recorder was attached in the middle of it
            return
        self._attempt, self._looks, self._backward_norm = None, [], None
        self.step += 1
        for look in looks:
            moments, block = self._moments(look.full), self._pending.block(self.step, full=look.full)
            if not look.full:
                block.sights.append((sight, self._look_at_unsampled(self.step + 1)))
            self._unaveraged.append((look.full, moments))
            seen = zip(self._followed.active, look.grads, look.backward, look.before, moments, strict=True)
            for number, grad, backward, before, after in seen:
                block.add(number, grad, backward, before, after)
        attempt.applied, attempt.loaded = not skipped, self._loaded
        self._pending.attempts.append(attempt)
        self._after_skip, self._loaded = skipped, False
        if not self._average:
            self._settle()

    def _settle(self, *, to_commit: bool = False) -> None:
        """Close the last step's rows; commit if it is time.

        The moving average follows the optimizer's step: what it became is there to be seen when the next begins.
        """
        for full, after in self._unaveraged:
            _set_averages(after, self._averages(full))
        self._unaveraged = []
        if to_commit or self._pending.due:
            self._commit()

    def _fullness(self, *, skipped: bool = False) -> tuple[bool, ...]:
        """Return how the coming step is looked at: by samples, and if it is to be recorded in full, by all elements as well."""
        return (False, True) if self._is_full(self.step + 1) and not skipped else (False,)

    def _is_full(self, step: int) -> bool:
        if isinstance(self._steps, frozenset):
            return step in self._steps
        return self._steps == "all" or step <= 3 or step % 100 == 0 or self._after_skip

    def _at(self, number: int, full: bool) -> capture.Where:
        return capture.Where(None if full else self._followed.where[number], to_host=full)

    def _grads(self) -> list[Tensor | None]:
        return [parameter.grad for parameter in self._parameters()]

    def _parameters(self) -> list[Tensor]:
        """Return the parameters that the optimizer steps now."""
        return [self._followed.tensors[number] for number in self._followed.active]

    def _moments(self, full: bool) -> list[capture.Moment]:
        """Return what all tensors are now, without their averages."""
        parameters = self._parameters()
        groups = [self._followed.infos[number].group for number in self._followed.active]
        states = [
            optimizer_info.state_of(self.optimizer, parameter, group, self._slot_names)
            for parameter, group in zip(parameters, groups, strict=True)
        ]
        return [
            capture.take_moment(parameter, state, self._slot_names, self._at(number, full))
            for number, parameter, state in zip(self._followed.active, parameters, states, strict=True)
        ]

    def _look_at_unsampled(self, step: int) -> digests.Sight:
        """Return digests of what is held between the step before `step` and `step`."""
        ranges = digests.choose_ranges(self._followed.unsampled, step)
        quantities: list[tuple[digests.Named, Tensor]] = []
        for number in (number for number, held in ranges.items() if held != digests.NOTHING):
            parameter = self._followed.tensors[number]
            quantities.append(((number, PARAM), parameter))
            quantities += [
                ((number, capture.slot_name(key, self._slot_names)), value)
                for key, value in self.optimizer.state.get(parameter, {}).items()
                if capture.elementwise(parameter, value)
            ]
        return digests.look(quantities, ranges)

    def _averages(self, full: bool) -> list[Tensor | None]:
        """Return the moving average of each tensor, where there is one."""
        return self._pick_each([self._average.get(id(parameter)) for parameter in self._parameters()], full)

    def _pick_each(self, tensors: Sequence[Tensor | None], full: bool) -> list[Tensor | None]:
        """Return of each tensor all elements, or those at the positions sampled of the parameter."""
        return [
            None if tensor is None else capture.pick(tensor, self._at(number, full))
            for number, tensor in zip(self._followed.active, tensors, strict=True)
        ]

    def _loss_scale(self, told: Tensor | None) -> Tensor | None:
        if told is not None:
            return told.detach().clone()
        if self._scaler is None or not self._scaler.is_enabled():
            return None
        return torch.tensor(self._scaler.get_scale(), dtype=torch.float64)

    def _commit(self) -> None:
        """Write the steps that wait as one part."""
        waiting = self._pending.take(tuple(self._followed.infos), self._followed.where)
        if waiting is None:
            return
        try:
            self._writer.write(*waiting)
        except OSError:
            self._detach()  # a trace with a hole is worse than one that ends
            raise


def _set_averages(moments: Iterable[capture.Moment], averages: Iterable[Tensor | None]) -> None:
    for moment, averaged in zip(moments, averages, strict=True):
        if averaged is not None:
            moment.slots[AVERAGE] = averaged
