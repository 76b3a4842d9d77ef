"""Captures one step, from the end of backward until the moving average has followed."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from crosscheck.errors import UnsupportedOptimizer
from crosscheck.recorder import gradients
from crosscheck.recorder.claims.loop_objects import LoopObjects
from crosscheck.recorder.hooks.scaler_watch import ScalerWatch, Updates
from crosscheck.recorder.hooks.steps import watch_steps
from crosscheck.recorder.optimizer.options import Options
from crosscheck.recorder.optimizer.tracked_parameters import TrackedParameters
from crosscheck.recorder.parts.journal import Journal
from crosscheck.recorder.parts.row_blocks import Row
from crosscheck.recorder.parts.step_records import StepRecord
from crosscheck.recorder.samples.reader import SampleReader
from crosscheck.recorder.samples.sampler import Sampler
from crosscheck.recorder.samples.snapshot import Values
from crosscheck.recorder.warning import warn

_OpenRows = list[tuple[SampleReader, Row]]


class StepCapture:
    """Makes the rows and the step record of each step, and hands them to the journal.

    A step passes through `after_backward`, if the loop calls it, `before_step`, `after_step` and `complete_last_step`. What these
    raise ends the recording, and its caller sees to that.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        tracked: TrackedParameters,
        sampler: Sampler,
        options: Options,
        loop: LoopObjects,
        journal: Journal,
        first_step: int,
    ) -> None:
        self.step = first_step - 1
        """The number of the last step that was captured."""
        self._optimizer, self._tracked, self._sampler, self._options = optimizer, tracked, sampler, options
        self._loop, self._journal = loop, journal
        journal.tensors = tuple(tracked.infos)
        self._averaged = bool(loop.average)
        self._hooks: list[RemovableHandle] = []
        self._scaler_watch: ScalerWatch | None = None
        self._reader: SampleReader | None = None  # of the sample that every step has
        self._turn = 0  # of that sample
        self._rows: _OpenRows = []  # of the coming step, or of the one that is going on
        self._record: StepRecord | None = None  # of the step that is going on
        self._backward_norm: Tensor | None = None
        self._awaiting_average: _OpenRows = []  # of the last step
        self._after_skip = self._state_loaded = False
        self._skip_noticed = False  # by the scaler watch, and the loop has not said so yet

    def attach(self, guard: Callable[..., None], scaler: torch.amp.GradScaler | None) -> None:
        """Have the steps of the optimizer captured, also those that a loss scaler skips.

        `guard` is to call the function that it gets, with the arguments that it gets, and to deal with what that raises.
        """
        before, after = partial(guard, self.before_step), partial(guard, self.after_step)
        self._hooks += watch_steps(self._optimizer, before, after)
        self._hooks.append(self._optimizer.register_load_state_dict_post_hook(self._note_loaded_state))
        if scaler is None or scaler.is_enabled():
            on_skip = partial(guard, self._capture_noticed_skip)
            self._scaler_watch = ScalerWatch(self._optimizer, scaler, lambda: self.step, on_skip)

    def detach(self) -> None:
        """Leave the optimizer and the loss scaler as they were."""
        for hook in self._hooks:
            hook.remove()
        if self._scaler_watch is not None:
            self._scaler_watch.end()

    def after_backward(self) -> None:
        """Copy the gradients as backward left them, if the norm over all of them is to be taken at this step."""
        self._prepare()
        if not self._sampler.norm_is_due(self.step + 1):
            return
        self._rows = self._begin_rows(skipped=False)
        for reader, row in self._rows:
            row.backward = self._gather_gradients(reader)
        self._backward_norm = gradients.norm(self._all_gradients(), None)

    def before_step(self, compiled: bool = False, *, skipped: bool = False) -> None:
        """Copy the gradients that the optimizer is about to consume, and take the snapshots before the step.

        Args:
            compiled: The step runs under torch.compile.
            skipped: The loss scaler does not have the optimizer take this step.
        """
        self._skip_noticed = False
        self._prepare()
        if not self._rows:
            self._rows = self._begin_rows(skipped=skipped)
        if skipped:
            self._rows = self._rows[:1]
        scale: Tensor | None = getattr(self._optimizer, "grad_scale", None)
        for reader, row in self._rows:
            row.grad = gradients.consumed(self._gather_gradients(reader), scale)
            row.before = reader.snapshot(row.step, before=True)
        options = self._options.read()
        updates = Updates() if self._scaler_watch is None else self._scaler_watch.updates(skipped=self._after_skip)
        self._record = StepRecord(
            step=self.step + 1,
            norm=None if self._backward_norm is None else gradients.norm(self._all_gradients(), scale),
            backward_norm=self._backward_norm,
            loss_scale=self._loss_scale(scale),
            overflow_elsewhere=updates.overflow_elsewhere,
            scaler_updates=updates.overflows,
            options=tuple(group | {"compiled": True} for group in options) if compiled else options,
        )

    def after_step(self) -> None:
        """Take the snapshots after a step; a fused kernel says by `found_inf` whether it skipped it."""
        found_inf = getattr(self._optimizer, "found_inf", None)
        self._finish(skipped=found_inf is not None and bool(found_inf))

    def skipped(self, loss_scale: float | None) -> None:
        """Capture a step of which the loop says that it was skipped, unless the scaler watch has noticed it."""
        if self._skip_noticed:
            self._skip_noticed = False
            return
        self.before_step(skipped=True)
        if self._record is not None and loss_scale is not None:
            self._record.loss_scale = torch.tensor(loss_scale, dtype=torch.float64, device="cpu")
        self._finish(skipped=True)

    def complete_last_step(self, *, commit: bool = False) -> None:
        """Add the moving averages to the last step's rows; commit what waits if it is time, or if told to.

        An average follows the optimizer's step: what became of it can be read only later, at the latest when the next step
        begins.
        """
        if self._awaiting_average:
            for reader, row in self._awaiting_average:
                row.average_after = self._gather_averages(reader)
            last = self._journal.pending.records[-1]
            last.options = self._loop.with_averaged(last.options)
            self._awaiting_average, self._journal.average_pending = [], False
        if commit or self._journal.pending.due:
            self._commit(wait=commit)

    def drop_open_step(self) -> None:
        """Forget what was captured of a step that is not over."""
        self._record, self._rows, self._reader = None, [], None

    def release(self) -> None:
        """Let go of the tensors: the recording has ended."""
        self.drop_open_step()
        self._backward_norm, self._awaiting_average = None, []
        self._tracked.release()

    def _capture_noticed_skip(self) -> None:
        """Capture a step that the scaler watch saw skipped."""
        self.before_step(skipped=True)
        self._finish(skipped=True)
        self._skip_noticed = True

    def _note_loaded_state(self, _: torch.optim.Optimizer) -> None:
        self._state_loaded = True

    def _prepare(self) -> None:
        """Complete the step before, and update the parameters. Raises UnsupportedOptimizer for one that no rule covers."""
        self.complete_last_step()
        full = self._sampler.is_full(self.step + 1, after_skip=self._after_skip)
        recorded = self._tracked.active if full or self._reader is None else self._reader.numbers
        if self._tracked.have_changed(recorded):
            self._commit()  # under the old list of tensors
            # What was taken of other tensors is of no use.
            self._rows, self._backward_norm, self._reader = [], None, None
            replaced = self._tracked.update()
            if replaced:
                more = f"; so it is with {len(replaced) - 1} more" if len(replaced) > 1 else ""
                warn(f"crosscheck: before step {self.step + 1} {replaced[0]}{more}")
            self._journal.tensors = tuple(self._tracked.infos)

    def _begin_rows(self, *, skipped: bool) -> _OpenRows:
        """Begin the rows of the coming step: one of the sample, and one of a full sample if the step is recorded in full."""
        step = self.step + 1
        turn = self._sampler.turn(step)
        if self._reader is None or (self._turn != turn and not self._journal.pending.records):
            self._reader, self._turn = self._sampler.reader(step), turn
        readers = [self._reader]
        if not skipped and self._sampler.is_full(step, after_skip=self._after_skip):
            readers.append(self._sampler.full_reader(step))
        rows = [(reader, Row(step, reader.sample)) for reader in readers]
        for reader, row in rows if self._averaged else ():
            row.average_before = self._gather_averages(reader)
        return rows

    def _finish(self, *, skipped: bool) -> None:
        """Take the snapshots after the step, and hand it to the journal."""
        record, rows = self._record, self._rows
        if record is None:  # attached, or forked off, in the middle of a step
            return
        self._record, self._rows, self._backward_norm = None, [], None
        self.step += 1
        for reader, row in rows:
            row.after = reader.snapshot(self.step, before=False)
        record.applied, record.state_loaded = not skipped, self._state_loaded
        record.options = self._loop.with_claims(record.options, applied=record.applied, warn=warn)
        # All that can fail is done: a part that has some rows of a step and not the others could not be read.
        self._journal.pending.add(record, [row for _, row in rows])
        self._after_skip, self._state_loaded = skipped, False
        if self._averaged:
            self._awaiting_average, self._journal.average_pending = rows, True
        else:
            self.complete_last_step()

    def _gather_gradients(self, reader: SampleReader) -> Values:
        """Raises UnsupportedOptimizer, by name, for a gradient that the rules do not cover."""
        tensors, grads = self._tracked.tensors, list[Tensor | None]()
        for number in reader.numbers:
            grad = tensors[number].grad
            if grad is not None and (grad.is_sparse or grad.is_complex()):
                name, kind = self._tracked.infos[number].name, "sparse" if grad.is_sparse else "complex"
                raise UnsupportedOptimizer(f"the gradient of {name} is {kind}: the rules are for dense real ones")
            grads.append(grad)
        return reader.gather(grads)

    def _gather_averages(self, reader: SampleReader) -> Values:
        return reader.gather(self._tracked.averages.get(number) for number in reader.numbers)

    def _all_gradients(self) -> Sequence[Tensor]:
        found = (self._tracked.tensors[number].grad for number in self._tracked.active)
        return [grad for grad in found if grad is not None]

    def _loss_scale(self, scale: Tensor | None) -> Tensor | None:
        """Return a copy of the loss scale, which is left on its device: reading it from a GPU would wait.

        `scale`: what the scaler has given to a fused kernel.
        """
        scaler = None if self._scaler_watch is None else self._scaler_watch.scaler
        if scale is None and scaler is not None:
            scale = scaler._get_scale_async()  # pyright: ignore[reportPrivateUsage]
        return None if scale is None else scale.detach().clone()

    def _commit(self, *, wait: bool = True) -> None:
        """Write the steps that wait as one part."""
        self._journal.commit(wait=wait)
        self._sampler.nbytes = self._journal.nbytes
