"""The training loop, step by step: what it costs beside the bare network, and what the device does in it."""

from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median

import torch

from distrib import bench
from distrib.config.load import load
from distrib.display import Display
from distrib.ranks import world
from distrib.training import loop
from distrib.training.build import build
from distrib.training.observers import Observers
from distrib.training.recipe import RunConfig
from distrib.training.run import Run
from tests.gpu import profile, training
from tests.gpu.part import Case, Cases, Setting, Skipped
from tests.gpu.report import Column, Figures
from tests.support import RECIPES

_PROFILED = 20  # steps
_IMAGES = 12_800


def _cases(setting: Setting) -> list[Case]:
    def case(name: str, recipe: str, mode: str, batch: int, *more: str) -> Case:
        return Case(name, partial(_measure, setting, name, recipe, mode, batch, more))

    return [
        case("SGD, bf16, batch 128", "sgd-onecycle", "bf16", 128),
        case("SGD, no, batch 128", "sgd-onecycle", "no", 128),
        case("SGD, fp16, batch 128", "sgd-onecycle", "fp16", 128),
        case("Adam, bf16, batch 128", "adam-onecycle", "bf16", 128),
        case("SGD, bf16, batch 4096", "sgd-onecycle", "bf16", 4096),
        case("SGD, bf16, batch 128, CUDA graph", "sgd-onecycle", "bf16", 128, "--training.cuda_graph=true"),
    ]


def _measure(setting: Setting, name: str, recipe: str, mode: str, batch: int, more: tuple[str, ...]) -> Figures:
    if setting.small and (mode, batch) != ("no", 128):
        raise Skipped("not rehearsed")
    folder = setting.folder(f"loop {name}")
    folder.mkdir()
    run = _build(setting, recipe, mode, batch, folder, more)
    timings, trace_bytes = bench.measure(run, rounds=1, part=10) if setting.small else bench.measure(run, rounds=6)
    whole, bare, recorded, saved = (timings[key] for key in ("whole loop", "bare step", "recorded", "checkpoint"))
    figures: Figures = {
        "whole": median(whole) * 1e3,
        "rate": batch / median(whole),
        "over_bare": _ratio(whole, bare),
        "recorded": _ratio(recorded, whole),
        "trace": trace_bytes / 1024,
        "checkpoint": _ratio(saved, whole),
    }
    seen = _profile(run, folder / "profile.json")
    if seen is not None:
        figures |= {"kernels": seen.kernels, "busy": seen.busy, "waits": seen.waits, "largest": seen.largest}
    return figures


def _build(setting: Setting, recipe: str, mode: str, batch: int, folder: Path, more: tuple[str, ...]) -> Run:
    few = ("--data.train_images=320", "--training.batch_size=32") if setting.small else ()
    overrides = training.arguments(
        setting,
        f"--data.train_images={_IMAGES}",
        "--data.test_images=100",
        f"--training.batch_size={batch}",
        f"--precision.mode={mode}",
        "--crosscheck.record=false",
        *more,
        *few,
    )
    config = load(RunConfig, RECIPES / f"{recipe}.toml", overrides)
    accelerator = world.start(config.training.threads, deterministic=config.training.deterministic)
    return build(config, accelerator, Display(main=True, quiet=True), folder, lambda _step: None)


def _ratio(over: list[float], under: list[float]) -> float:
    """Round by round, so that a machine whose speed drifts drifts for both."""
    return median(a / b for a, b in zip(over, under, strict=True))


def _profile(run: Run, to: Path) -> profile.Profile | None:
    """Some steps of the loop as training takes them."""
    steps = min(_PROFILED, run.total_steps - 1)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if run.accelerator.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with closing(Observers(run)) as observers:
        run.model.train()
        loop.take_step(run, 1, observers, stop=False, checkpoint=False)
        with torch.profiler.profile(activities=activities) as recorded:
            for step in range(2, steps + 2):
                loop.take_step(run, step, observers, stop=False, checkpoint=False)
    recorded.export_chrome_trace(str(to))
    return profile.read(to, steps)


PART = Cases(
    title="the training loop beside the bare network, and what the device does in a step",
    columns=(
        Column(key="whole", title="ms a step", form=".2f"),
        Column(key="rate", title="images/s", form=",.0f"),
        Column(key="over_bare", title="loop / bare step", form=".3f"),
        Column(key="recorded", title="recorded / loop", form=".3f"),
        Column(key="trace", title="trace KiB a step", form=".0f"),
        Column(key="checkpoint", title="checkpoint / step", form=".2f"),
        Column(key="kernels", title="kernels a step", form=".0f"),
        Column(key="busy", title="device busy", form=".0%"),
        Column(key="waits", title="waits of the host a step", form=".2f"),
        Column(key="largest", title="largest kernels, share of the device's time"),
    ),
    cases=_cases,
)
