"""`python -m distrib.train RECIPE.toml [--section.key VALUE …]`, alone or under a launcher.

Exit codes: 0 done, 1 fault, 2 bad input, 75 stopped on request with a checkpoint written.
"""

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import filter_trackers  # pyright: ignore[reportUnknownVariableType] (typed with a bare PathLike)

from distrib import crosscheck, loop, run, world
from distrib.checkpoint import resume
from distrib.config.help import help_text
from distrib.config.recipe import RunConfig, load
from distrib.display import Display
from distrib.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAULT, EXIT_STOPPED, BadInput, RunFault
from distrib.files import write_atomically, write_json
from distrib.heartbeat import Heartbeat, is_collective_failure
from distrib.observers import closing_lines
from distrib.optim import implementation
from distrib.output import default_folder
from distrib.stop import StopRequest


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    speaks = world.rank_from() == 0
    if not arguments or set(arguments) & {"-h", "--help"}:
        if speaks:
            print(help_text(RunConfig), end="")
        return EXIT_DONE if arguments else EXIT_BAD_INPUT
    try:
        recipe = Path(arguments[0])
        config = load(recipe, arguments[1:])
        world.check(config.training)
        accelerator = world.start(config.training)
    except BadInput as error:
        # A launcher kills all ranks when the first one ends, and ranks start seconds apart.
        return _report(f"bad input: {error}", EXIT_BAD_INPUT, speaks=speaks, let_rank_0_speak=10.0)
    heartbeat = Heartbeat(accelerator.process_index, accelerator.num_processes)
    with StopRequest() as request:
        heartbeat.start()
        try:
            ending = _train(recipe, config, accelerator, heartbeat, request)
            heartbeat.stop()
            if ending.together:  # rank 0 hosts the store: it leaves when nobody uses it any more
                with contextlib.suppress(RuntimeError):
                    accelerator.wait_for_everyone()
        finally:
            heartbeat.stop()
            accelerator.end_training()  # closes the trackers and destroys the process group
        if ending.unchecked is not None:
            problem = crosscheck.replay(ending.unchecked, Display(main=True, quiet=config.output.quiet))
            if problem is not None:
                ending = replace(ending, code=EXIT_FAULT, problem=f"fault: {problem}")
            _write_status(ending.unchecked, True, ending.code, ending.problem, ending.step)
    return _report(ending.problem, ending.code, speaks=ending.speaks, let_rank_0_speak=1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ending:
    """How a run ended on this rank."""

    code: int
    problem: str = ""  # for standard error
    speaks: bool  # rank 0, or the first survivor when rank 0 is gone
    together: bool = True  # every rank ends this way, at this point
    step: int | None = None
    unchecked: Path | None = None  # the run's folder, if its trace waits to be replayed by this rank


def _train(
    recipe: Path, config: RunConfig, accelerator: Accelerator, heartbeat: Heartbeat, request: StopRequest
) -> _Ending:
    speaks = accelerator.is_main_process
    display = Display(main=speaks, quiet=config.output.quiet)
    folder: Path | None = None
    code, problem, step, together = EXIT_DONE, "", None, True
    try:
        folder = Path(world.on_main(accelerator, lambda: _prepare_folder(recipe, config)))
        ready = run.build(config, accelerator, display, folder)
        step = ready.total_steps
        if world.on_main(accelerator, lambda: _is_complete(ready)):
            display.say(
                f"{folder}/ holds this run complete ({step} steps, summary.json): raise training.epochs "
                "to train on, or choose another output.dir to start anew"
            )
        else:
            if speaks:
                write_atomically(folder / "config.toml", config.to_toml())  # only now: it replaces an earlier one
            _start_trackers(config, accelerator, folder)
            _say_what_runs(display, ready)
            closing_lines(display, loop.train(ready, request), folder)
    except BadInput as error:
        code, problem, step = EXIT_BAD_INPUT, f"bad input: {error}", None
    except loop.Stopped as stop:
        display.close_bar()
        display.say(str(stop))
        _write_status(folder, speaks, EXIT_STOPPED, str(stop), stop.step)
        return _Ending(code=EXIT_STOPPED, speaks=speaks)
    except RunFault as error:
        code, problem, step = EXIT_FAULT, f"fault: {error}", None
    except OSError as error:
        where = error.filename or folder
        code, problem, step = EXIT_BAD_INPUT, f"bad input: {where} cannot be written ({error.strerror})", None
        together = False
    except RuntimeError as error:
        if not is_collective_failure(error):
            _write_status(folder, speaks, EXIT_FAULT, f"{type(error).__name__}: {error}")
            raise
        fault, speaks = heartbeat.explain(error)
        code, problem, step, together = EXIT_FAULT, f"fault: {fault}", None, False
    display.close_bar()
    unchecked = folder if folder is not None and code == EXIT_DONE and speaks and _waits(config, folder) else None
    if unchecked is None:
        _write_status(folder, speaks, code, problem, step)
    return _Ending(code=code, problem=problem, speaks=speaks, together=together, step=step, unchecked=unchecked)


def _prepare_folder(recipe: Path, config: RunConfig) -> str:
    folder = Path(config.output.dir).expanduser() if config.output.dir is not None else default_folder(recipe)
    resume.refuse_leftovers(config.checkpoint, folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "status.json", {"state": "running", "exit_code": None, "reason": "", "step": None})
    except OSError as error:
        raise BadInput(f"output.dir = {folder} cannot be written ({error.strerror}): choose another folder") from None
    return str(folder)


def _is_complete(ready: run.Run) -> bool:
    return ready.resumed.step == ready.total_steps and (ready.folder / "summary.json").exists()


def _waits(config: RunConfig, folder: Path) -> bool:
    """Whether the trace is still to be replayed; a run that was killed meanwhile does it when it is called again."""
    if not (config.crosscheck.record and config.crosscheck.replay):
        return False
    return crosscheck.verdict(folder) == crosscheck.NOT_REPLAYED


def _start_trackers(config: RunConfig, accelerator: Accelerator, folder: Path) -> None:
    names = config.output.trackers
    if not names:
        return
    accelerator.project_configuration.set_directories(str(folder))
    try:
        accelerator.log_with = filter_trackers(list(names), str(folder))
    except ValueError as error:
        raise BadInput(f"output.trackers = {list(names)}: {error}") from None
    if len(accelerator.log_with) < len(names):
        raise BadInput(
            f"output.trackers = {list(names)}: not all of them are installed here; pip install them, or leave them out"
        )
    accelerator.init_trackers("twinstep")


def _say_what_runs(display: Display, ready: run.Run) -> None:
    training, plan = ready.config.training, ready.plan
    display.line(
        f"{ready.dataset_name}: {plan.num_images} training images, {training.epochs} epochs of {plan.steps_per_epoch} steps, "
        f"global batch {plan.batch_size} on {plan.world_size} process(es), {run.device_name(ready.accelerator.device)}; "
        f"{implementation(ready.optimizer)} {type(ready.optimizer).__name__}, precision {ready.precision.mode}, "
        f"seed {plan.seed}; writing to {ready.folder}/"
    )


def _write_status(folder: Path | None, writes: bool, code: int, reason: str, step: int | None = None) -> None:
    """status.json, because exit codes do not survive a launcher."""
    state = {EXIT_DONE: "done", EXIT_STOPPED: "stopped"}.get(code, "failed")
    if writes and folder is not None:
        with contextlib.suppress(OSError):  # a full disk must not hide the message that says so
            status = {"state": state, "exit_code": code, "reason": reason, "step": step}
            write_json(folder / "status.json", status)


def _report(problem: str, code: int, *, speaks: bool, let_rank_0_speak: float) -> int:
    """The problem, if any, from the one rank that speaks; the others give it time to."""
    if problem and speaks:
        print(problem, file=sys.stderr, flush=True)
    elif problem:
        time.sleep(let_rank_0_speak)
    return code


if __name__ == "__main__":
    sys.exit(main())
