"""Makes one start of a run, from its recipe and folder to its status and exit code."""

import contextlib
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from distrib.checkpoint import resume
from distrib.checkpoint.differences import to_train_on
from distrib.config.load import Resolved
from distrib.config.messages import telling_origins
from distrib.crosscheck import replay
from distrib.display import Display
from distrib.errors import EXIT_DONE, BadInput, PeerLost, RunFault
from distrib.files import NEEDS_USER, write_atomically
from distrib.job import lock
from distrib.job.outcome import Outcome, outcome_of
from distrib.job.run_folder import make_folder, wait_until_visible
from distrib.job.status import Status
from distrib.job.stop import StopRequest
from distrib.layout import CONFIG, FACTS
from distrib.optim.optimizer import implementation
from distrib.page.live import LivePage, available
from distrib.ranks import collectives, world
from distrib.ranks.heartbeat import Heartbeat, is_collective_failure
from distrib.ranks.same_start import require_same
from distrib.text import count
from distrib.training import facts, loop, summary
from distrib.training.build import build
from distrib.training.metrics.trackers import Trackers, expect_installed
from distrib.training.recipe import RunConfig
from distrib.training.run import Run


def begin(
    resolved: Resolved[RunConfig], status: Status, request: StopRequest, *, name: str, arguments: Sequence[str] | None
) -> "Start":
    """Join the other ranks, and return this rank's part of the start. Raises BadInput, OSError and PeerLost.

    `name` stands in the name of the folder of a run that was given none, and `arguments` are those of the trainer that starts it
    again; None stands for the configuration in its folder.
    """
    training, output = resolved.config.training, resolved.config.output
    with telling_origins(resolved.origin, resolved.config.keys()):
        world.check(training.world_size)
    accelerator = world.start(
        training.threads, deterministic=training.deterministic, timeout=training.start_timeout_seconds
    )
    request.wait_for_agreement()
    display = Display(main=accelerator.is_main_process, quiet=output.quiet)
    for note in resolved.notes:
        display.say(note)
    heartbeat = Heartbeat(accelerator.process_index, accelerator.num_processes)
    heartbeat.start()
    return Start(name, arguments, resolved, accelerator, heartbeat, status, request, display, LivePage(display))


@dataclass(frozen=True, slots=True)
class Start:
    """One rank's part of a start."""

    name: str
    arguments: Sequence[str] | None
    resolved: Resolved[RunConfig]
    accelerator: Accelerator
    heartbeat: Heartbeat
    status: Status
    request: StopRequest
    display: Display
    page: LivePage
    held: ExitStack = field(default_factory=ExitStack)
    """The lock of the folder, and the trackers."""

    @property
    def config(self) -> RunConfig:
        return self.resolved.config

    def run(self, work: Callable[[], Outcome] | None = None) -> Outcome:
        """Train (or do `work`), replay the trace if there is one, and return how the start ended.

        When it returns, the folder's lock, the process group and the trackers are released. An error of an unknown kind is
        raised.
        """
        with self.held:
            try:
                outcome = self._outcome_of(work or self._train)
                self.heartbeat.stop()
                if outcome.on_all_ranks:  # rank 0 hosts the store: it leaves when nobody uses it any more
                    with contextlib.suppress(RuntimeError):
                        self.accelerator.wait_for_everyone()
            finally:
                self.heartbeat.stop()
                self.accelerator.end_training()  # which ends the process group
            if outcome.to_replay is not None:
                outcome = self._replay(outcome, outcome.to_replay)
        return outcome

    def _outcome_of(self, work: Callable[[], Outcome]) -> Outcome:
        """Do the work and return its outcome; an error becomes the outcome that it stands for.

        Writes status.json, unless a replay follows. An error of an unknown kind is raised.
        """
        try:
            with telling_origins(self.resolved.origin, self.config.keys()):
                outcome = work()
        except Exception as error:
            cause = error
            if isinstance(error, RuntimeError) and is_collective_failure(error):
                cause = self.heartbeat.diagnose(error)
            outcome = self._outcome_of_error(cause, reports=self.accelerator.is_main_process)
        self.display.close_bar()
        if outcome.to_replay is None:
            outcome.write(self.status)
        self._write_page(outcome)
        return outcome

    def _train(self) -> Outcome:
        """Train to a good end and return it; every other end is raised."""
        config, accelerator, display = self.config, self.accelerator, self.display
        reports = accelerator.is_main_process
        require_same(accelerator, config.keys_of_all_ranks())
        prepared = collectives.on_main(accelerator, self._prepare_folder)
        if (earlier := prepared["earlier"]) is not None:
            return Outcome(code=earlier["exit_code"], message=str(earlier.get("reason", "")), shown=True, reports=False)
        folder = self.status.folder = Path(prepared["folder"])
        collectives.agree_on_error(accelerator, wait_until_visible(folder))
        ready = build(
            config,
            accelerator,
            display,
            folder,
            lambda step: collectives.raise_if_stop_requested(accelerator, self.request, step),
        )
        step = ready.resumed.step
        if collectives.on_main(accelerator, lambda: _is_complete(ready)):
            display.say(
                f"{folder}/ holds this run complete ({count(step, 'step')}, summary.json): "
                f"{to_train_on(early=step < ready.total_steps)} to train on, or choose another output.dir to start anew"
            )
        else:
            self.status.works = True
            if reports:
                withdrawn = summary.withdraw(folder)  # only now, when nothing is refused any more
                write_atomically(folder / CONFIG, config.to_toml())
                again = self.arguments or [str(folder / CONFIG)]
                self.page.attempt(lambda: facts.write(ready, again, self.status.before), folder / FACTS)
                if withdrawn:
                    self.page.write(folder)  # or it would show them until the next page is due
            trackers = collectives.on_every_rank(accelerator, lambda: self._start_trackers(ready))
            self._expect_answers()
            _say_what_runs(display, ready)
            result = loop.train(ready, self.request, self.page if reports else None, trackers)
            summary.print_closing_lines(display, result, folder)
            step = result["steps"]
        to_replay = folder if reports and _replay_pending(config, folder) else None
        return Outcome(code=EXIT_DONE, reports=reports, step=step, to_replay=to_replay)

    def _start_trackers(self, ready: Run) -> Trackers | None:
        """Start the trackers, on rank 0, which may take minutes, and see to it that they finish. Raises BadInput."""
        names = self.config.output.trackers
        if not names or not self.accelerator.is_main_process:
            return None
        trackers = Trackers(
            self.accelerator,
            names,
            ready.folder,
            self.config.keys(),
            self.display,
            resumed_step=ready.resumed.step,
            total_steps=ready.total_steps,
        )
        self.held.callback(trackers.close)
        return trackers

    def _prepare_folder(self) -> dict[str, Any]:
        """Take the folder, on rank 0.

        Return its name, and the final status of an earlier start by this launcher, if there is one.
        """
        config = self.config
        expect_installed(config.output.trackers)
        folder: Path | None = None
        try:
            folder = make_folder(config.output.dir, self.name)
            resume.refuse_files_of_others(folder)  # before the lock, which is a file as well
            self.held.callback(os.close, lock.acquire(folder, self.display.say))
            earlier = self.status.final_status(folder)
            if earlier is None:
                resume.refuse_leftovers(config.checkpoint, folder)
                self.status.folder = folder
                self.status.begin(folder)
        except OSError as error:
            if error.errno not in NEEDS_USER:
                raise
            raise BadInput(
                f"output.dir = {folder or error.filename} cannot be used ({error.filename}: {error.strerror}): choose another "
                "folder"
            ) from None
        return {"folder": str(folder), "earlier": earlier}

    def _expect_answers(self) -> None:
        """From here on take a rank that does not answer for dead: start-up, which may take minutes, is over."""
        seconds = self.config.training.timeout_seconds
        world.shorten_timeout(self.accelerator, seconds)
        self.heartbeat.watch(seconds, self.request.asked, self._leave)

    def _leave(self, fault: PeerLost) -> None:
        """End the process from another thread: the main one waits for a rank that is gone."""
        outcome = self._outcome_of_error(fault, reports=False)
        try:
            outcome.write(self.status)
            outcome.show()  # before the page, which takes longer
            self._write_page(outcome)
        finally:
            os._exit(outcome.code)

    def _replay(self, outcome: Outcome, folder: Path) -> Outcome:
        """Replay the trace when the process group is gone. Return how the start ends now, which its status says, too.

        `outcome` is how the training ended. Raises an error that nobody foresaw.
        """
        self.status.works = True
        try:
            replayed = replay(folder, self.display, self.request, step=outcome.step)
            if replayed is not None:
                report, mismatch = replayed
                summary.add_verdict(folder, report)
                if mismatch:
                    raise RunFault(mismatch)
        except Exception as error:
            outcome = replace(self._outcome_of_error(error, reports=True), step=outcome.step)
        self._publish(outcome)
        return outcome

    def _publish(self, outcome: Outcome) -> None:
        """Write how the start ends into status.json, and the page that stays, if this rank reports."""
        outcome.write(self.status)
        self._write_page(outcome)

    def _write_page(self, outcome: Outcome) -> None:
        if outcome.reports and self.status.folder is not None:
            self.page.write(self.status.folder)

    def _outcome_of_error(self, error: Exception, *, reports: bool) -> Outcome:
        """Return the outcome of an error.

        Prints the message of a stop; raises an error of an unknown kind, after it has published it.
        """
        outcome = outcome_of(error, self.status, reports=reports)
        if not outcome.foreseen:
            self._publish(outcome)
            raise error
        if outcome.shown:
            self.display.close_bar()
            self.display.say(outcome.message)
        return outcome


def _is_complete(ready: Run) -> bool:
    """Return whether the folder holds the whole run: the step that it ends with, and the summary,
    which comes after all evaluation.
    """
    step, ended = ready.resumed.step, ready.config.training.enough(ready.resumed.progress) is not None
    return (step == ready.total_steps or ended) and step == summary.completed_steps(ready.folder)


def _replay_pending(config: RunConfig, folder: Path) -> bool:
    """Return whether the trace is still to be replayed, also by an earlier start that was killed meanwhile."""
    wanted = config.crosscheck.record and config.crosscheck.replay
    return wanted and summary.verdict(folder) == summary.NOT_REPLAYED


def _say_what_runs(display: Display, ready: Run) -> None:
    training, plan = ready.config.training, ready.plan
    display.line(
        f"{ready.dataset_name}: {count(plan.num_images, 'training image')}, {count(training.epochs, 'epoch')} of "
        f"{count(plan.steps_per_epoch, 'step')}, "
        f"global batch {plan.batch_size} on {count(plan.world_size, 'process')}, {world.device_name(ready.accelerator.device)}; "
        f"{implementation(ready.optimizer)} {type(ready.optimizer).__name__}, precision {ready.precision.mode}, "
        f"seed {plan.seed}; writing to {ready.folder}/"
    )
    if not available():
        display.line(
            "no run page (index.html), because Jinja2 is not installed here: pip install '.[page]' in a clone of Twinstep"
        )
