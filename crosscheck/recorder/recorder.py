"""The recorder hooks into an optimizer, and writes what each step read and wrote into a trace, part by part."""

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, ParamSpec, Self

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from crosscheck.errors import TraceError, UnsupportedOptimizer
from crosscheck.recorder.claims.checkable import expect_checkable
from crosscheck.recorder.claims.loop_objects import LoopObjects
from crosscheck.recorder.estimate import Estimate, estimate
from crosscheck.recorder.header import place_of, scaler_of, versions
from crosscheck.recorder.optimizer.options import Options
from crosscheck.recorder.optimizer.rule import choose_rule
from crosscheck.recorder.optimizer.tracked_parameters import TrackedParameters
from crosscheck.recorder.optimizer.wrappers import unwrap
from crosscheck.recorder.parts.journal import Journal
from crosscheck.recorder.samples.budget import Size, budget_of
from crosscheck.recorder.samples.sampler import Sampler
from crosscheck.recorder.step_capture import StepCapture
from crosscheck.recorder.warning import warn
from crosscheck.trace.format import Claims, Header, Pass
from crosscheck.trace.writer import SegmentWriter

_Arguments = ParamSpec("_Arguments")
_log = logging.getLogger(__name__)


class Recorder:
    """Records what each `optimizer.step()` reads and writes.

    It works in any loop that calls `optimizer.step()`, with or without closure, also on an optimizer that Accelerate has wrapped.
    Under data parallelism all ranks should take the same step: record on rank 0, or on every rank to have that checked as well.
    Sharded optimizers and parameters (FSDP, DTensor, ZeRO) are refused.

    It never breaks the training: what cannot be recorded, such as a sparse gradient or a full disk, ends the recording with
    a warning, and training goes on. What was recorded until then can be replayed; the report says where and why the record ends.

        with Recorder(optimizer, "trace"):
            train()

    Hooks of others that change gradients before the step must be registered before the recorder's.

    At each step a fixed number of elements and bytes is recorded, whatever the size of the model: see `budget`. Without `close`,
    the rest of the record is written when the process ends or the optimizer is deleted.
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
            budget: How much is recorded. `default`: at every step 2,048 elements, spread over up to 64 tensors, and digests
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
            scaler: The loss scaler; the replay then checks how its scale changes. A `torch.amp.GradScaler` that is not given is
                found when it first steps the optimizer: skipped steps and scale are then recorded, but the changes of the scale
                are not checked. Other optimizers may share it.
            average: The `torch.optim.swa_utils.AveragedModel`, or pairs of a parameter and its moving average, which is
                then recorded as one more slot.
            model: The model. Its names are those of the tensors, and pair the parameters with those of `average`.
            scheduler: The scheduler that the loop steps after every applied update: what it claims is read from it, as a
                formula where its class has one, otherwise rate by rate from a copy of it.
            scheduler_every: How many updates there are to one step of the scheduler, such as those of an epoch. If they are more
                than one, the loop may count skipped steps among them or not.
            clip_norm: The bound to which the loop clips the global norm of the gradients.
            clip_value: The bound to which the loop clamps every element of the gradients.
            claims: What happens around the optimizer: clipping, schedule, moving average, options by tensor. The
                replay checks it; what is not claimed is not checked. Claims without a bound of clipping say that there is no
                clipping. Name here as well what the trainer itself changes between steps, such as parameters
                (`Claims(between=("param",))`), or the replay reports a change.
            append: Continue an existing trace with a segment of its own: a resumed run.
            first_step: The number of the first step to come.
            world_size: Ranks of the run; left out, those of torch.distributed if it is initialized.
            rank: The rank of this process; left out, that of torch.distributed. If several ranks record, each into the same
                `path`, they write one trace, and the replay compares them.
            seed: The run's seed, for the header.

        Raises:
            UnsupportedOptimizer: No rule covers this optimizer or one of its tensors.
            TraceError: The folder cannot be written, or holds a trace; or no replay could check one of the claims.
        """
        self.optimizer = unwrap(optimizer)
        rule = choose_rule(self.optimizer, rule)
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
        claims = self.loop.claims
        tracked = TrackedParameters(self.optimizer, self.loop.names, self.loop.average)
        self._sampler = Sampler(
            self.optimizer, tracked, slots or {}, rule, budget_of(budget), steps=steps, coordinates=coordinates
        )
        options = Options(self.optimizer, rule)
        groups = options.read()
        if claims is not None:
            fresh = first_step == 1 and claims.applied == 0
            expect_checkable(claims, tracked.infos, groups, fresh=fresh, averaged=bool(self.loop.average))
        rank, world_size = place_of(rank, world_size)
        header = Header(
            rule=rule,
            optimizer=f"{type(self.optimizer).__module__}.{type(self.optimizer).__qualname__}",
            first_step=first_step,
            coordinates=coordinates,
            world_size=world_size,
            rank=rank,
            seed=seed,
            attached_with_state=any(self.optimizer.state.values()),
            claims=claims,
            scaler=scaler_of(scaler),
            versions=versions(),
        )
        self._journal = Journal(SegmentWriter(Path(path), header, append=append), first_step)
        self._capture = StepCapture(
            self.optimizer, tracked, self._sampler, options, self.loop, self._journal, first_step
        )
        try:
            self._capture.attach(self._guard, scaler)
        except Exception:
            self._capture.detach()
            self._journal.discard()
            raise
        if _log.isEnabledFor(logging.INFO):
            _log.info("recording to %s: %s", path, self.estimate())
        weakref.finalize(self, _end_unclosed, self._journal, weakref.ref(self))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def step(self) -> int:
        """The number of the last step that was recorded."""
        return self._capture.step

    def estimate(self) -> Estimate:
        """Return an estimate of what recording costs: elements, disk, memory and time for each step.

        It is logged once, when attached.
        """
        with torch.no_grad():
            return estimate(self._sampler, self.step + 1)

    def after_backward(self) -> None:
        """Record the gradients as `backward` left them: averaged over ranks, times the loss scale, not yet clipped.

        Call it once a step, before anything changes the gradients, such as `unscale_`. With it the replay can check what happens
        between backward and the optimizer, by the `claims`. Of a large model this is recorded at some steps only, because the
        norm needs every gradient.
        """
        self._guard(self._capture.after_backward)

    def add_pass(
        self,
        described: Pass,
        *,
        images: Tensor,
        labels: Tensor,
        winners: Sequence[Tensor],
        parameters: Mapping[str, Tensor],
    ) -> None:
        """Record the batch and the weights from which the gradients of the coming step were computed, so that they can be
        recomputed.

        Call it where you call `after_backward`.

        Args:
            described: The step, the network and the number format of the pass.
            images: (B, H, W, C) uint8, the whole global batch as it was augmented.
            labels: (B,) int64.
            winners: For each max-pooling in turn, (B, C, H/2, W/2) uint8: see `Winners`.
            parameters: The parameters by name, with their gradients; those without a gradient are left out.
        """

        def write() -> None:
            arrays = {"images": images, "labels": labels}
            arrays |= {f"winners/{number}": won for number, won in enumerate(winners)}
            for name, parameter in parameters.items():
                if parameter.grad is not None:
                    arrays |= {f"parameter/{name}": parameter.detach(), f"gradient/{name}": parameter.grad}
            self._journal.writer.write_pass(
                described, {name: array.cpu().contiguous() for name, array in arrays.items()}
            )

        self._guard(write)

    def skipped(self, *, loss_scale: float | None = None) -> None:
        """Record a step that the loss scaler skipped without calling the optimizer.

        The recorder notices the skipped steps of a `torch.amp.GradScaler` by itself. With another scaler call this before the
        gradients are cleared. `loss_scale` is the scale that overflowed, to be given if the scaler was updated since.
        """
        self._guard(self._capture.skipped, loss_scale)

    def flush(self) -> None:
        """Write all recorded steps to the disk, and go on recording. A killed run loses the steps that were not written.

        Call it before a checkpoint is written, between two steps and after the update of the moving average: a run that
        continues from the checkpoint then continues a trace that reaches as far.
        """
        self._guard(self._capture.complete_last_step, commit=True)

    def close(self) -> None:
        """Write the rest of the record, mark its end, and detach from the optimizer. A second call does nothing."""
        self._capture.detach()
        self._guard(self._end)
        self._capture.release()

    def _guard(self, action: Callable[_Arguments, None], *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        """Call the action, unless the recording has ended. An exception in it ends the recording, and not the training."""
        if self._journal.closed:
            return
        try:
            with torch.no_grad():
                action(*args, **kwargs)
        except Exception as error:
            self._fail(error)

    def _end(self, why: str | None = None) -> None:
        """Write the rest of the record and mark its end. `why` is the reason if the recording ends before the training."""
        self._capture.complete_last_step(commit=True)  # at the end of a process no thread can be started any more
        self._journal.end(why)

    def _fail(self, error: Exception) -> None:
        """End the recording with a warning, or raise the error if the recorder is strict."""
        # The hooks stay, because they may be running, and do nothing from here on.
        self._capture.drop_open_step()
        why = str(error) if isinstance(error, UnsupportedOptimizer | TraceError) else f"{type(error).__name__}: {error}"
        if self._strict:  # the run does not go on, so the record ends as that of a killed one
            with contextlib.suppress(Exception):
                self._journal.commit()
        elif not self._journal.closed:
            try:
                self._end(why)
            except Exception as another:  # what waits cannot be recorded either, and it does not wait any more
                _log.debug("the recording ends without its last part: %s", another)
                with contextlib.suppress(Exception):
                    self._journal.end(why)
        self._journal.closed = True
        self._capture.release()
        if self._strict:
            raise error
        warn(
            f"crosscheck: the record ends with step {self._journal.committed}: {why}; training goes on, and what was recorded "
            "can be replayed"
        )


def _end_unclosed(journal: Journal, recorder: weakref.ref[Recorder]) -> None:
    """Write the rest of a recording that was never closed, when the process ends or the optimizer is deleted."""
    left = recorder()
    if journal.closed:  # in a process that was forked off as well
        return
    if left is None:
        journal.end_without_waiting()
    else:
        with contextlib.suppress(Exception):  # nobody is there any more to be told
            left.close()
