"""The recorder: two hooks on an optimizer, and a trace that grows part by part."""

import contextlib
import functools
import logging
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, Self

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from crosscheck.errors import TraceError, UnsupportedOptimizer
from crosscheck.recorder import gradients, optimizer_info
from crosscheck.recorder.budget import Size, budget_of
from crosscheck.recorder.claims import expect_checkable
from crosscheck.recorder.digests import Sight
from crosscheck.recorder.estimate import Estimate, estimate
from crosscheck.recorder.followed import Followed
from crosscheck.recorder.hooks import watch_steps
from crosscheck.recorder.journal import Journal
from crosscheck.recorder.loop_objects import LoopObjects
from crosscheck.recorder.options import Options
from crosscheck.recorder.pending import Attempt
from crosscheck.recorder.row_blocks import Row
from crosscheck.recorder.scaler_watch import ScalerWatch
from crosscheck.recorder.selection import Selection
from crosscheck.recorder.view import Moment, Picked, View
from crosscheck.recorder.warning import warn
from crosscheck.trace.format import Claims, Header, Pass
from crosscheck.trace.writer import SegmentWriter

_Arguments = ParamSpec("_Arguments")
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Look:
    """What is seen of one step through one view."""

    view: View
    average: Picked  # that no update has touched yet
    backward: Picked | None = None  # gradients as backward left them, where that was seen
    grad: Picked = field(default_factory=Picked)  # as consumed
    before: Moment = field(default_factory=Moment)
    sight: Sight | None = None


def _ends_the_recording(
    method: Callable[Concatenate["Recorder", _Arguments], None],
) -> Callable[Concatenate["Recorder", _Arguments], None]:
    """Return the method, guarded: an exception in it ends the recording with a warning, or is raised if the recorder is strict."""

    @functools.wraps(method)
    def guarded(self: "Recorder", *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        try:
            with torch.no_grad():
                method(self, *args, **kwargs)
        except Exception as error:
            self._fail(error)  # pyright: ignore[reportPrivateUsage]

    return guarded


class Recorder:
    """Records what an optimizer consumed and what it made of it, step by step.

    Works in any loop that calls `optimizer.step()`, with or without closure; wrappers of Accelerate are
    looked through. Under data parallelism all ranks should take the same step: record on rank 0, or on every rank to have that
    checked as well. Not for sharded optimizers or parameters (FSDP, DTensor, ZeRO): these are refused by name.

    It never breaks the training: what cannot be recorded, such as a sparse gradient or a full disk, ends the recording with
    a warning, and training goes on. What was recorded until then can be replayed, and says where and why it ends.

        with Recorder(optimizer, "trace"):
            train()

    Hooks of others that change gradients before the step must be registered before the recorder's.

    A step costs a fixed number of elements and bytes, whatever the model: see `budget`. Without `close`, what was recorded is
    written when the process ends or the optimizer is deleted.
    """

    def __init__(
        self,
        optimizer: Any,
        path: str | Path,
        *,
        budget: Size | int = "default",
        steps: Literal["sampled", "all"] | Iterable[int] = "sampled",
        coordinates: int | None = None,
        strict: bool = False,
        rule: str = "auto",
        slots: Mapping[str, str] | None = None,
        named_parameters: Iterable[tuple[str, Tensor]] | None = None,
        scaler: torch.amp.GradScaler | None = None,
        average: Iterable[tuple[Tensor, Tensor]] | AveragedModel = (),
        model: torch.nn.Module | None = None,
        scheduler: Any = None,
        scheduler_every: int = 1,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        claims: Claims | None = None,
        append: bool = False,
        first_step: int = 1,
        world_size: int | None = None,
        rank: int | None = None,
        seed: int | None = None,
    ) -> None:
        """Attach to `optimizer` and open the trace folder `path`.

        Args:
            optimizer: A torch optimizer, or a wrapper of one by Accelerate, or by DeepSpeed without ZeRO (`engine.optimizer`).
            path: The trace's folder; refused if it holds a trace, unless `append`.
            budget: What may be looked at. `default`: at every step 2,048 elements, spread over up to 64 tensors, and digests
                of 768 KiB more; at some steps 4 MiB of whole tensors, or of blocks of those that are too large. `light`: about a
                quarter of that; `full`: everything at every step; a number: bytes to be written for a step, at most.
            steps: Steps recorded in full, counted from 1. `sampled`: the first three, the one after a skip
                and every hundredth, within the budget; `all`, or the numbers themselves: every element of them.
            coordinates: Elements of each tensor recorded at every step, at fixed positions, instead of those of the budget.
            strict: Raise what ends a recording instead of warning of it.
            rule: The torch optimizer whose formula is claimed: `sgd`, `adam`, `adamw`; `auto` goes by the class.
            slots: The rule's names of state -> this optimizer's, where they differ:
                `{"exp_avg": "m", "exp_avg_sq": "v"}`.
            named_parameters: Names for the tensors, such as `model.named_parameters()`; otherwise those the
                optimizer was built with, otherwise positions.
            scaler: The loss scaler, whose scale is then held to its rule. A `torch.amp.GradScaler` that is not given is found when
                it first steps the optimizer: its skipped steps are noticed and its scale is recorded, but not held to anything.
                Other optimizers may share it.
            average: The `torch.optim.swa_utils.AveragedModel`, or pairs of a parameter and its moving average, which is
                then recorded as one more slot.
            model: The model, which names the tensors, and says which average is of which.
            scheduler: The scheduler that the loop steps after every applied update: what it claims is read from it, as a
                formula where its class has one, otherwise rate by rate from a copy of it.
            scheduler_every: The updates to one step of the scheduler, such as those of an epoch.
            clip_norm: The bound that the loop clips the global norm of the gradients at.
            clip_value: The bound that it clamps every element at.
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
        if coordinates is not None and coordinates < 1:
            raise ValueError(f"coordinates={coordinates}: at least 1 element of each tensor is needed")
        self._strict = strict
        self.loop = LoopObjects(
            self.optimizer,
            claims=claims,
            scheduler=scheduler,
            scheduler_every=scheduler_every,
            clip_norm=clip_norm,
            clip_value=clip_value,
            model=model,
            named_parameters=named_parameters,
            average=average,
            first_step=first_step,
        )
        """What the objects of the training loop say of it."""
        claims, self._averaged = self.loop.claims, bool(self.loop.average)
        self._followed = Followed(self.optimizer, self.loop.names, self.loop.average)
        self._selection = Selection(
            self.optimizer,
            self._followed,
            {theirs: ours for ours, theirs in (slots or {}).items()},
            rule=chosen,
            budget=budget_of(budget),
            steps=steps,
            coordinates=coordinates,
        )
        self._options = Options(self.optimizer, chosen)
        options = self._options.read()
        self.step = first_step - 1
        """The number of the last step that was recorded."""
        self._view: View | None = None  # of the part that is being recorded
        self._turn = 0  # the turn of tensors and elements that `_view` belongs to
        self._attempt: Attempt | None = None  # that has not ended yet
        self._looks: list[_Look] = []  # at the coming step, or at its backward
        self._backward_norm: Tensor | None = None
        self._unaveraged: list[tuple[View, Moment]] = []  # after the step
        self._after_skip = self._loaded = False
        if claims is not None:
            expect_checkable(
                claims,
                self._followed.infos,
                options,
                fresh=first_step == 1 and claims.applied == 0,
                averaged=self._averaged,
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
        self._journal = Journal(SegmentWriter(Path(path), header, append=append), first_step)
        self._hooks = [
            *watch_steps(self.optimizer, self._see_before, self._on_stepped),
            self.optimizer.register_load_state_dict_post_hook(self._on_loaded),
        ]
        self._skip_noticed = False  # and the trainer has not told of it
        self._scaler_watch: ScalerWatch | None = None
        if scaler is None or scaler.is_enabled():
            self._scaler_watch = ScalerWatch(self.optimizer, scaler, lambda: self.step, self._on_skipped)
        if _log.isEnabledFor(logging.INFO):
            _log.info("recording to %s: %s", path, self.estimate())
        weakref.finalize(self, _leave, self._journal, weakref.ref(self))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def estimate(self) -> Estimate:
        """Return what recording costs: elements, disk, memory and time for each step. It is logged once, when attached."""
        with torch.no_grad():
            return estimate(self._selection, self.step + 1)

    @_ends_the_recording
    def close(self) -> None:
        """Commit what waits, mark the end, detach. Closing twice is fine."""
        self._detach()
        if not self._journal.closed:
            self._settle(to_commit=True)  # at the end of a process no thread can be started any more
            self._journal.end()
        self._release()

    @_ends_the_recording
    def flush(self) -> None:
        """Commit what waits, and go on. Without it a killed run loses up to a part's worth of steps.

        To be called between two steps, when the moving average has followed: before a checkpoint is written, so that
        a run that continues there continues a trace that reaches as far.
        """
        if not self._journal.closed:
            self._settle(to_commit=True)

    def _fail(self, error: Exception) -> None:
        """End the recording, and let the training go on, unless it was to be strict."""
        # The hooks stay, because they may be running, and do nothing from here on.
        self._attempt, self._looks, self._view = None, [], None
        if self._strict:  # the run does not go on, so the record ends as that of a killed one
            with contextlib.suppress(Exception):
                self._journal.commit()
            self._journal.closed = True
            self._release()
            raise error
        why = str(error) if isinstance(error, UnsupportedOptimizer | TraceError) else f"{type(error).__name__}: {error}"
        if not self._journal.closed:
            try:
                self._settle(to_commit=True)
                self._journal.end(why)
            except Exception as another:  # what waits cannot be recorded either, and it does not wait any more
                _log.debug("the recording ends without its last part: %s", another)
                with contextlib.suppress(Exception):
                    self._journal.end(why)
            self._journal.closed = True
        self._release()
        warn(
            f"crosscheck: the record ends with step {self._journal.committed}: {why}; training goes on, and what was recorded can be replayed"
        )

    def _release(self) -> None:
        """Let go of the tensors: the record has ended."""
        self._attempt, self._looks, self._view, self._backward_norm, self._unaveraged = None, [], None, None, []
        self._followed.release()

    def _detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        if self._scaler_watch is not None:
            self._scaler_watch.end()

    @_ends_the_recording
    def after_backward(self) -> None:
        """Record the gradients as `backward` left them: averaged over ranks, times the loss scale, not yet clipped.

        A second point of capture, to be called once a step, before anything touches the gradients. With it the
        replay can check what happens between backward and the optimizer, by the `claims`. Of a large model this is
        recorded at some steps only, because the norm needs every gradient.
        """
        if self._journal.closed:
            return
        self._prepare()
        if not self._selection.norm_is_due(self.step + 1):
            return
        self._looks = self._begin(skipped=False)
        for look in self._looks:
            grads = self._grads(look.view)
            self._expect_dense(look.view, grads)
            look.backward = look.view.pick(grads)
        self._backward_norm = gradients.norm(self._all_grads(), None)

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
        if self._journal.closed:
            return
        arrays = {"images": images, "labels": labels}
        arrays |= {f"winners/{number}": won for number, won in enumerate(winners)}
        for name, parameter in parameters.items():
            if parameter.grad is not None:
                arrays |= {f"parameter/{name}": parameter.detach(), f"gradient/{name}": parameter.grad}
        self._journal.writer.write_pass(described, {name: array.cpu().contiguous() for name, array in arrays.items()})

    def skipped(self, *, loss_scale: float | None = None) -> None:
        """Tell of a step that the loss scaler skipped without calling the optimizer, as it does unless fused.

        Of a `torch.amp.GradScaler` the recorder notices by itself, and then there is nothing to tell. Of another scaler it is to
        be called before the gradients are cleared. `loss_scale` is the one that overflowed, if the scaler was updated since.
        """
        if self._skip_noticed:
            self._skip_noticed = False
            return
        self._see_before(skipped=True)
        if self._attempt is not None and loss_scale is not None:
            self._attempt.scale = torch.tensor(loss_scale, dtype=torch.float64, device="cpu")
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

    def _prepare(self) -> None:
        """Settle the step before, and see which tensors the coming one has. Raises UnsupportedOptimizer for one without a rule."""
        self._settle()
        full = self._selection.is_full(self.step + 1, after_skip=self._after_skip)
        watched = self._followed.active if full or self._view is None else self._view.numbers
        if self._followed.changed(watched):
            self._commit()  # under the old list of tensors
            self._looks, self._backward_norm, self._view = [], None, None  # what was seen of others is of no use
            replaced = self._followed.follow()
            if replaced:
                more = f"; so it is with {len(replaced) - 1} more" if len(replaced) > 1 else ""
                warn(f"crosscheck: before step {self.step + 1} {replaced[0]}{more}")
        self._journal.tensors = tuple(self._followed.infos)

    def _begin(self, *, skipped: bool) -> list[_Look]:
        """Choose how the coming step is looked at: by samples, and if it is to be recorded in full, by more as well."""
        step = self.step + 1
        if self._view is None or (self._turn != self._selection.turn(step) and not self._journal.pending.attempts):
            self._view, self._turn = self._selection.sampled(step), self._selection.turn(step)
        views = [self._view]
        if not skipped and self._selection.is_full(step, after_skip=self._after_skip):
            views.append(self._selection.full(step))
        return [_Look(view, view.pick(self._averages(view)) if self._averaged else Picked()) for view in views]

    @_ends_the_recording
    def _see_before(self, compiled: bool = False, *, skipped: bool = False) -> None:
        self._skip_noticed = False
        if self._journal.closed:
            return
        self._prepare()
        if not self._looks:
            self._looks = self._begin(skipped=skipped)
        if skipped:
            self._looks = self._looks[:1]
        scale: Tensor | None = getattr(self.optimizer, "grad_scale", None)
        for look in self._looks:
            grads = self._grads(look.view)
            self._expect_dense(look.view, grads)
            look.grad = gradients.consumed(look.view.pick(grads), scale)
            look.before, look.sight = look.view.look(self.step + 1, before=True)
            look.before.average = look.average
        self._attempt = Attempt(
            step=self.step + 1,
            norm=None if self._backward_norm is None else gradients.norm(self._all_grads(), scale),
            backward_norm=self._backward_norm,
            scale=self._loss_scale(scale),
            overflow_elsewhere=self._scaler_watch is not None and self._scaler_watch.overflowed_elsewhere(),
            options=tuple(o | {"compiled": True} for o in self._options.read()) if compiled else self._options.read(),
        )

    def _expect_dense(self, view: View, grads: Iterable[Tensor | None]) -> None:
        """Raises UnsupportedOptimizer, by name, for a gradient that the rules do not cover."""
        for number, grad in zip(view.numbers, grads, strict=True):
            if grad is not None and (grad.is_sparse or grad.is_complex()):
                name, kind = self._followed.infos[number].name, "sparse" if grad.is_sparse else "complex"
                raise UnsupportedOptimizer(f"the gradient of {name} is {kind}: the rules are for dense real ones")

    @_ends_the_recording
    def _see_after(self, *, skipped: bool) -> None:
        attempt, looks = self._attempt, self._looks
        if attempt is None or self._journal.closed:  # attached, or forked off, in the middle of a step
            return
        self._attempt, self._looks, self._backward_norm = None, [], None
        self.step += 1
        seen: list[tuple[View, Row]] = []
        for look in looks:
            after, sight = look.view.look(self.step, before=False)
            seen.append((look.view, Row(self.step, look.grad, look.backward, look.before, after, (look.sight, sight))))
        attempt.applied, attempt.loaded = not skipped, self._loaded
        attempt.options = self.loop.tell(attempt.options, applied=attempt.applied)
        # All that can fail is done: a part that has some rows of a step and not the others could not be read.
        self._journal.pending.add(attempt, [(view.chosen, row) for view, row in seen])
        self._unaveraged = [(view, row.after) for view, row in seen]
        self._after_skip, self._loaded = skipped, False
        self._journal.unsettled = self._averaged
        if not self._averaged:
            self._settle()

    def _settle(self, *, to_commit: bool = False) -> None:
        """Close the last step's rows; commit if it is time.

        The moving average follows the optimizer's step: what it became is there to be seen when the next begins.
        """
        for view, after in self._unaveraged if self._averaged else ():
            after.average = view.pick(self._averages(view))
        if self._unaveraged:
            last = self._journal.pending.attempts[-1]
            last.options = self.loop.tell_averaged(last.options)
        self._unaveraged, self._journal.unsettled = [], False
        if to_commit or self._journal.pending.due:
            self._commit(wait=to_commit)

    def _grads(self, view: View) -> list[Tensor | None]:
        return [self._followed.tensors[number].grad for number in view.numbers]

    def _all_grads(self) -> list[Tensor]:
        found = (self._followed.tensors[number].grad for number in self._followed.active)
        return [grad for grad in found if grad is not None]

    def _averages(self, view: View) -> list[Tensor | None]:
        """Return the moving average of each tensor, where there is one."""
        return [self._followed.averages.get(number) for number in view.numbers]

    def _loss_scale(self, told: Tensor | None) -> Tensor | None:
        """Return the loss scale of the coming step, which is left where it is: reading it from a GPU would wait."""
        scaler = None if self._scaler_watch is None else self._scaler_watch.scaler
        if told is None and scaler is not None:
            told = scaler._get_scale_async()  # pyright: ignore[reportPrivateUsage]
        return None if told is None else told.detach().clone()

    def _commit(self, *, wait: bool = True) -> None:
        """Write the steps that wait as one part."""
        self._journal.commit(wait=wait)
        self._selection.nbytes = self._journal.nbytes


def _leave(journal: Journal, recorder: weakref.ref[Recorder]) -> None:
    """Write the rest of a recording that was never closed, when the process ends or the optimizer is deleted."""
    left = recorder()
    if journal.closed:  # in a process that was forked off as well
        return
    if left is None:
        journal.leave()
    else:
        with contextlib.suppress(Exception):  # nobody is there any more to be told
            left.close()
