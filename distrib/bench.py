"""Measure what the loop costs beside the bare network.

It times the whole training step (batch, augmentation, loss agreement, update,
metrics), with and without the cross-check's recorder, against the bare
forward, backward and optimizer step on resident random batches, in alternation
within one process, so that a machine whose speed drifts drifts for all of
them. Also one checkpoint, on the disk of the current folder; and under a
launcher with several ranks one comparison of what they hold. On the quickstart
recipe unless another one is given, and on 12,800 drawn images unless the
overrides say otherwise. It prints a table; exit code 2 is bad input.
"""

import copy
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import quantiles

import torch
from torch.nn import functional

from crosscheck.recorder import Recorder
from distrib.config.load import resolve
from distrib.display import Display
from distrib.errors import EXIT_DONE
from distrib.exits import run_command, show_help
from distrib.job import environment
from distrib.launch_files import find_recipe
from distrib.layout import TRACE
from distrib.ranks import world
from distrib.text import count
from distrib.training import loop
from distrib.training.build import build
from distrib.training.checkpointer import Checkpointer
from distrib.training.observers import Observers
from distrib.training.recipe import RunConfig
from distrib.training.recording import start_recorder
from distrib.training.run import Run

_BLOCK = 10  # steps that are timed together
_PART = 128  # recorded steps that are timed together, one part of the trace
_ROUNDS = 12  # blocks of each kind
_RECORDED, _BARE, _COMPARISON, _CHECKPOINT = "recorded", "bare step", "comparison of ranks", "checkpoint"
_QUICK = ["--data.source", "synthetic", "--data.train_images", "12800", "--data.test_images", "100"]


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, and return the exit code."""
    return run_command(lambda: _main(arguments))


def _main(arguments: Sequence[str]) -> int:
    if set(arguments) & {"-h", "--help"}:
        return show_help(f"usage: twinstep bench [RECIPE] [--section.key VALUE ...]\n\n{__doc__}")
    recipe = find_recipe(arguments[0] if arguments else "quickstart")
    unrecorded = ["--crosscheck.record", "false"]  # `measure` starts the recorder itself
    resolved = resolve(RunConfig, recipe, [*_QUICK, *arguments[1:], *unrecorded])
    config = resolved.config
    environment.check()
    world.check(config.training.world_size)
    accelerator = world.start(config.training.threads, deterministic=config.training.deterministic)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder:
        display = Display(main=accelerator.is_main_process, quiet=True)
        for note in resolved.notes:
            display.say(note)
        run = build(config, accelerator, display, Path(folder), lambda _step: None)
        timings, trace_bytes = measure(run)
    if accelerator.is_main_process:
        _print(run, timings, trace_bytes)
    accelerator.end_training()
    return EXIT_DONE


def measure(run: Run, rounds: int = _ROUNDS, part: int = _PART) -> tuple[dict[str, list[float]], int]:
    """Time the steps of `run`, which must not record by itself.

    Returns seconds a step in each of `rounds` blocks, by name (`whole loop`, `recorded`, `bare step`, `checkpoint`,
    `comparison of ranks`), and bytes of trace a recorded step. A block of recorded steps has `part` of them.
    """
    observers, checkpointer = Observers(run), Checkpointer(run)
    device, plan = run.accelerator.device, run.plan
    pixels = torch.randint(
        0, 256, (4, plan.share, *run.batches.split.images.shape[1:]), dtype=torch.uint8, device=device
    )
    classes = torch.randint(0, len(run.classes), (4, plan.share), device=device)
    batches = [(run.batches.normalize(images), labels) for images, labels in zip(pixels, classes, strict=True)]
    run.model.train()

    def whole(number: int) -> None:
        loop.take_step(run, number % run.total_steps + 1, observers, stop=False, checkpoint=False)

    def bare(number: int) -> None:
        for part in range(1, plan.accumulate + 1):
            images, labels = batches[(number + part) % len(batches)]
            with nullcontext() if part == plan.accumulate else run.accelerator.no_sync(run.model):
                with run.precision.autocast():
                    loss = functional.cross_entropy(run.model(images), labels)
                run.accelerator.backward(loss / plan.accumulate)
        run.optimizer.step()
        run.optimizer.zero_grad()

    def compare(number: int) -> None:
        run.replica_check.after_step(number, saves=True)  # every time, not only when it is due

    def save(number: int) -> None:
        checkpointer.save(number % run.total_steps + 1, run.resumed.progress)

    steps = {"whole loop": whole, _RECORDED: whole, _BARE: bare, _COMPARISON: compare, _CHECKPOINT: save}
    timings: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(rounds + 1):
        for name, step in steps.items():
            count = part if name == _RECORDED else _BLOCK
            first = round_ * count
            observers.recorder = start_recorder(run, first_step=first + 1) if name == _RECORDED else None
            with _unchanged(run) if name == _BARE else nullcontext():
                timings[name].append(_time(step, first, count, device, observers.recorder))
    observers.close()
    trace_bytes = sum(file.stat().st_size for file in (run.folder / TRACE).rglob("part-*"))
    # The first round warms up.
    return {name: seconds[1:] for name, seconds in timings.items()}, trace_bytes // (part * (rounds + 1))


@contextmanager
def _unchanged(run: Run) -> Generator[None]:
    """Put weights and optimizer back on leaving: steps on random batches without clipping let the network diverge."""
    weights = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    state = copy.deepcopy(run.optimizer.state_dict())
    yield
    run.model.load_state_dict(weights)
    run.optimizer.load_state_dict(state)


def _time(
    step: Callable[[int], None], first: int, count: int, device: torch.device, recorder: Recorder | None
) -> float:
    """Return the seconds that a step takes in one block. The recorder commits its part, and is closed, in that time."""
    world.synchronize(device)
    start = time.perf_counter()
    for number in range(first, first + count):
        step(number)
    if recorder is not None:
        recorder.close()
    world.synchronize(device)
    return (time.perf_counter() - start) / count


def _print(run: Run, timings: Mapping[str, Sequence[float]], trace_bytes: int) -> None:
    batch = run.plan.batch_size
    print(
        f"{world.device_name(run.accelerator.device)}, {count(run.plan.world_size, 'process')}, global batch {batch}, ",
        end="",
    )
    print(f"precision {run.precision.mode}; {_ROUNDS} rounds of {_BLOCK} steps, median [quartiles]")
    for name in ("whole loop", _RECORDED, _BARE):
        low, mid, high = quantiles(timings[name], n=4)
        print(
            f"  {name:<11} {mid * 1e3:8.2f} ms a step [{low * 1e3:.2f}, {high * 1e3:.2f}]   {batch / mid:10,.0f} images/s"
        )
    pairs = [("whole loop", _BARE), (_RECORDED, "whole loop"), (_CHECKPOINT, "whole loop")]
    if run.replica_check.made:  # not in a world of one
        pairs.append((_COMPARISON, "whole loop"))
    for over, under in pairs:
        ratios = [a / b for a, b in zip(timings[over], timings[under], strict=True)]
        low, mid, high = quantiles(ratios, n=4)
        print(f"  {over} / {under}, round by round: {mid:.3f} [{low:.3f}, {high:.3f}]")
    print(f"  the trace takes {trace_bytes / 1024:.0f} KiB a step")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
    print(f"  peak memory of this process: {peak / 2**20:.2f} GiB")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
