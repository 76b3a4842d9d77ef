"""Makes a dry run: it does everything that a start does up to its first steps, in memory, and prints what it found."""

import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator
from torch import Tensor

from distrib.checkpoint import resume, state
from distrib.config.load import Resolved
from distrib.data.images import Split
from distrib.display import Display
from distrib.dry_run import text
from distrib.errors import EXIT_DONE
from distrib.job.outcome import Outcome
from distrib.job.run_folder import find_folder
from distrib.job.stop import StopRequest
from distrib.optim.optimizer import implementation
from distrib.ranks import collectives, world
from distrib.ranks.same_start import require_same
from distrib.text import count
from distrib.training import loop
from distrib.training.build import build
from distrib.training.metrics.figures import peak_memory
from distrib.training.metrics.trackers import expect_installed
from distrib.training.observers import Observers
from distrib.training.recipe import RunConfig
from distrib.training.recording import start_recorder
from distrib.training.run import Run

MEASURED = 3
_LINE_OF_METRICS = 250  # bytes, of a step
_PASS = 3 * 10**6  # bytes, of a step in crosscheck.gradient_steps


@dataclass(frozen=True, slots=True)
class _Measured:
    """What a rank saw of its few steps; times in seconds."""

    steps: int  # with the first one, which is not counted
    step: float | None
    evaluation: float
    memory: int  # bytes at the peak
    trace: str  # what recording adds, nothing without it
    trace_bytes: int
    trace_seconds: float


def rehearse(
    resolved: Resolved[RunConfig],
    accelerator: Accelerator,
    display: Display,
    request: StopRequest,
    name: str,
) -> Outcome:
    """Print on rank 0 what the run would be, and return how that ended. Raises as a start does; nothing is written."""
    config = resolved.config
    require_same(accelerator, config.keys_of_all_ranks())
    folder = Path(collectives.on_main(accelerator, lambda: _folder(config, name)))
    run = build(
        config,
        accelerator,
        display,
        folder,
        lambda step: collectives.raise_if_stop_requested(accelerator, request, step),
    )
    update = run.update
    already, rates = update.applied, _rates(run)  # before steps are taken
    sizes = list(_sizes(run))
    with tempfile.TemporaryDirectory(prefix="twinstep-dry-run-") as place:
        measured = _measure(run, Path(place), request)
    ascii_only = not _stdout_takes_lines()
    lines = [*text.configuration(config.keys(), resolved.origin), ""]
    lines += [*_world(run), _steps(run, already), ""]
    lines += ["learning rate" + (" of the last group" if len(update.optimizer.param_groups) > 1 else "")]
    lines += [*text.plot(rates, run.total_steps, ascii_only=ascii_only), ""]
    lines += [*_memory_and_disk(run, sizes, measured), _time(run, measured), ""]
    lines.append(f"dry run: nothing was written; without --dry-run the run is in {folder}/")
    display.say("\n".join(lines))
    return Outcome(code=EXIT_DONE, reports=accelerator.is_main_process)


def _folder(config: RunConfig, name: str) -> str:
    """Return where the run would be, on rank 0. Raises BadInput for what would be refused before anything is written."""
    expect_installed(config.output.trackers)
    folder = find_folder(config.output.dir, name)
    resume.refuse_files_of_others(folder)
    resume.refuse_leftovers(config.checkpoint, folder)
    return str(folder)


def _rates(run: Run) -> Callable[[int], float]:
    """Return the learning rate of the last group, which no pattern made unless patterns take all parameters,
    by the number of updates before.
    """
    schedule, group = run.update.schedule, run.optimizer.param_groups[-1]
    base = float(group["initial_lr"])
    return lambda step: base * schedule(step)


def _measure(run: Run, place: Path, request: StopRequest) -> _Measured:
    """Take a few real steps in memory, and evaluate one batch of a rank. Their metrics go into a folder that is removed."""
    own = run.config.crosscheck
    quiet = {
        "crosscheck": own.model_copy(update={"record": False, "live": "off"}),
        "output": run.config.output.model_copy(update={"profile_steps": None}),
    }
    rehearsed = replace(run, folder=place, config=run.config.model_copy(update=quiet))
    seconds: list[float] = []
    observers = Observers(rehearsed)
    run.model.train()
    for step in list(run.remaining_steps())[: 1 + MEASURED]:
        began = time.perf_counter()
        loop.take_step(rehearsed, step, observers, stop=request.asked(), checkpoint=False)
        world.synchronize(run.accelerator.device)
        seconds.append(time.perf_counter() - began)
    observers.close()
    some = min(len(run.test), run.config.training.eval_batch_size * run.plan.world_size)
    part = replace(rehearsed, test=Split(run.test.images[:some], run.test.labels[:some]))
    began = time.perf_counter()
    part.evaluate(request.asked)
    world.synchronize(run.accelerator.device)
    evaluation = (time.perf_counter() - began) * len(run.test) / some
    counted = seconds[1:]
    mean = sum(counted) / len(counted) if counted else None
    found = _Measured(len(seconds), mean, evaluation, peak_memory(), "", 0, 0.0)
    return (
        _with_the_record(found, replace(run, folder=place)) if own.record and run.accelerator.is_main_process else found
    )


def _with_the_record(measured: _Measured, run: Run) -> _Measured:
    """Return it with what recording adds, which the recorder measures itself."""
    recorder = start_recorder(run, first_step=run.resumed.step + 1)
    cost = recorder.estimate()
    recorder.close()
    return replace(measured, trace=str(cost), trace_bytes=cost.disk_bytes, trace_seconds=cost.seconds)


def _world(run: Run) -> Iterator[str]:
    plan, accumulate = run.plan, run.config.training.accumulate
    yield text.fact("world", f"{count(plan.world_size, 'process')}, {world.device_name(run.accelerator.device)}")
    parts = f", in {accumulate} parts of {plan.share}" if accumulate > 1 else ""
    yield text.fact("batch", f"{count(plan.batch_size, 'image')}, {plan.share * accumulate} a rank{parts}")
    yield text.fact(
        "optimizer", f"{implementation(run.optimizer)} {type(run.optimizer).__name__}, precision {run.precision.mode}"
    )
    numbers = [
        count(plan.num_images, "training image"),
        count(len(run.test), "test image"),
        count(len(run.classes), "class"),
    ]
    yield text.fact("data", f"{run.dataset_name}: {', '.join(numbers)}")


def _steps(run: Run, applied: int) -> str:
    done = run.resumed.step
    taken = f"; {done} are done ({count(applied, 'update')}), {run.total_steps - done} are to take" if done else ""
    epochs = count(run.config.training.epochs, "epoch")
    return text.fact("steps", f"{run.total_steps} in {epochs} of {run.plan.steps_per_epoch}{taken}")


def _sizes(run: Run) -> Iterator[tuple[str, int]]:
    """Yield the tensors that stay for the whole run, with their bytes."""
    split = run.batches.split
    yield "training images", _bytes([split.images, split.labels])
    yield "test images", _bytes([run.test.images, run.test.labels])
    yield "weights", _bytes(run.module.state_dict().values())


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _memory_and_disk(run: Run, sizes: list[tuple[str, int]], measured: _Measured) -> Iterator[str]:
    tensors, _ = state.capture(run.update)  # after a step the optimizer has all of its state
    saved = sum(_bytes(part.values()) for part in tensors.values())
    shown = ", ".join(f"{name} {text.size(number)}" for name, number in sizes)
    what = "of the GPU " if run.accelerator.device.type == "cuda" else ""
    yield text.fact(
        "memory",
        (
            f"{text.size(measured.memory)} {what}a rank, at the peak of these steps ({shown}, with optimizer and average "
            f"{text.size(saved)})"
        ),
    )
    crosscheck, checkpoint = run.config.crosscheck, run.config.checkpoint
    keep = checkpoint.keep + checkpoint.best
    remaining = run.total_steps - run.resumed.step
    trace = remaining * measured.trace_bytes + len(crosscheck.gradient_steps) * crosscheck.record * _PASS
    metrics = remaining * _LINE_OF_METRICS
    yield text.fact(
        "disk",
        f"{text.size((keep + 1) * saved + metrics + trace)} at most: checkpoints of {text.size(saved)}, of which {keep} stay "
        f"while one is written; metrics {text.size(metrics)}"
        + (f"; trace {text.size(trace)} ({measured.trace})" if trace else ""),
    )


def _time(run: Run, measured: _Measured) -> str:
    remaining, plan = run.total_steps - run.resumed.step, run.plan
    if measured.step is None:
        return text.fact("time", f"{count(remaining, 'step')} to take: too few to measure")
    step = measured.step + measured.trace_seconds
    total = remaining * (step + measured.evaluation / plan.steps_per_epoch)
    return text.fact(
        "time",
        f"{1e3 * step:.1f} ms a step, the mean of {measured.steps - 1} behind one that is not counted "
        f"({plan.batch_size / step:,.0f} images/s); {text.duration(measured.evaluation)} an evaluation; about "
        f"{text.duration(total)} for all, without checkpoints and replay",
    )


def _stdout_takes_lines() -> bool:
    """Return whether standard output can write the characters of a plot."""
    encoding = sys.stdout.encoding if isinstance(sys.stdout, io.TextIOBase) else None
    try:
        "•│└─".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
