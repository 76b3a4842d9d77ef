"""`python -m distrib.train RECIPE.toml [--section.key VALUE …]`, alone or under a launcher.

Exit codes: 0 done, 1 fault, 2 bad input, 75 stopped on request with a checkpoint written.
"""

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import filter_trackers  # pyright: ignore[reportUnknownVariableType] (typed with a bare PathLike)

from distrib import loop, run, world
from distrib.config.help import help_text
from distrib.config.recipe import RunConfig, load
from distrib.display import Display
from distrib.errors import EXIT_BAD_INPUT, EXIT_DONE, EXIT_FAULT, EXIT_STOPPED, BadInput, RunFault
from distrib.files import write_atomically, write_json
from distrib.heartbeat import Heartbeat, is_collective_failure
from distrib.optim import implementation
from distrib.output import default_folder
from distrib.stop import StopRequest

# A launcher kills all ranks when the first one ends. Ranks that have nothing to say wait this long
# for rank 0 to say it.
_LET_RANK_0_SPEAK_SECONDS = 10


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
    except BadInput as error:
        return _report(f"bad input: {error}", EXIT_BAD_INPUT, speaks=speaks)
    with StopRequest() as request:
        accelerator = world.start(config.training)
        heartbeat = Heartbeat(accelerator.process_index, accelerator.num_processes)
        heartbeat.start()
        try:
            return _train(recipe, config, accelerator, heartbeat, request)
        finally:
            heartbeat.stop()
            accelerator.end_training()  # closes the trackers and destroys the process group


def _train(
    recipe: Path, config: RunConfig, accelerator: Accelerator, heartbeat: Heartbeat, request: StopRequest
) -> int:
    speaks = accelerator.is_main_process
    display = Display(main=speaks, quiet=config.output.quiet)
    folder: Path | None = None
    try:
        folder = Path(world.on_main(accelerator, lambda: _prepare_folder(recipe, config)))
        ready = run.build(config, accelerator, display, folder)
        _start_trackers(config, accelerator, folder)
        _say_what_runs(display, ready)
        result = loop.train(ready, request)
        loop.closing_lines(display, result, folder)
        return _end(folder, speaks, EXIT_DONE, "", result["steps"])
    except BadInput as error:
        problem, code = f"bad input: {error}", EXIT_BAD_INPUT
    except loop.Stopped as stop:
        display.close_bar()
        display.say(str(stop))
        return _end(folder, speaks, EXIT_STOPPED, str(stop), stop.step)
    except RunFault as error:
        problem, code = f"fault: {error}", EXIT_FAULT
    except RuntimeError as error:
        if not is_collective_failure(error):
            _end(folder, speaks, EXIT_FAULT, f"{type(error).__name__}: {error}")
            raise
        fault, speaks = heartbeat.explain(error)
        problem, code = f"fault: {fault}", EXIT_FAULT
    display.close_bar()
    _end(folder, speaks, code, problem)
    return _report(problem, code, speaks=speaks)


def _prepare_folder(recipe: Path, config: RunConfig) -> str:
    folder = Path(config.output.dir).expanduser() if config.output.dir is not None else default_folder(recipe)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "config.toml", config.to_toml())
        write_json(folder / "status.json", {"state": "running", "exit_code": None, "reason": "", "step": None})
    except OSError as error:
        raise BadInput(f"output.dir = {folder} cannot be written ({error.strerror}): choose another folder") from None
    return str(folder)


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


def _end(folder: Path | None, writes: bool, code: int, reason: str, step: int | None = None) -> int:
    """status.json, because exit codes do not survive a launcher."""
    states = {EXIT_DONE: "done", EXIT_STOPPED: "stopped"}
    if writes and folder is not None:
        with contextlib.suppress(OSError):  # a full disk must not hide the message that says so
            write_json(
                folder / "status.json",
                {"state": states.get(code, "failed"), "exit_code": code, "reason": reason, "step": step},
            )
    return code


def _report(text: str, code: int, *, speaks: bool) -> int:
    if speaks:
        print(text, file=sys.stderr, flush=True)
    else:
        time.sleep(_LET_RANK_0_SPEAK_SECONDS)
    return code


if __name__ == "__main__":
    sys.exit(main())
