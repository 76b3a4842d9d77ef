"""Whole runs of the trainer: what they reach, how fast, and in how much memory."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from tests.gpu import training
from tests.gpu.part import Case, Cases, Problem, Setting, Skipped
from tests.gpu.report import Column, Figures

QUICKSTART, ONECYCLE, SPEED = "quickstart", "sgd-onecycle", "speed"
_BIG = ("--precision.mode=bf16", "--training.epochs=2")


def _cases(setting: Setting) -> list[Case]:
    def case(name: str, *overrides: str, recipe: str = ONECYCLE) -> Case:
        return Case(name, partial(_train, setting, name, recipe, overrides))

    return [
        case(QUICKSTART, "--crosscheck.record=true", recipe=QUICKSTART),
        *(case(f"{ONECYCLE}, {mode}", f"--precision.mode={mode}") for mode in ("bf16", "no", "fp16", "tf32")),
        *(
            case(f"{ONECYCLE}, bf16, batch {size}, 2 epochs", f"--training.batch_size={size}", *_BIG)
            for size in (1024, 4096)
        ),
        *(case(f"{SPEED}, bf16, seed {seed}", f"--training.seed={seed}", recipe=SPEED) for seed in range(3)),
        case(f"{SPEED}, fp16", "--precision.mode=fp16", recipe=SPEED),
        case(f"{SPEED}, bf16, recorded", "--crosscheck.record=true", recipe=SPEED),
        case("resnet18, bf16", recipe="resnet18"),
        case(f"{ONECYCLE}, bf16, CUDA graph", "--precision.mode=bf16", "--training.cuda_graph=true"),
        case(f"{ONECYCLE}, bf16, compiled", "--precision.mode=bf16", "--training.compile=true"),
    ]


def _train(setting: Setting, name: str, recipe: str, overrides: tuple[str, ...]) -> Figures:
    if setting.small and recipe != QUICKSTART:
        raise Skipped("not rehearsed")
    folder = setting.folder(name)
    trainer = training.start(recipe, folder, training.arguments(setting, *overrides))
    first_step = trainer.wait_for_step(1)
    trainer.expect(0)
    return figures_of(trainer.summary(), first_step=first_step, whole=time.monotonic() - trainer.began)


def figures_of(summary: Mapping[str, Any], *, first_step: float, whole: float) -> Figures:
    """The figures of a run that ended well. Raises Problem if its cross-check found something."""
    peak, check = summary["peak_device_memory"], summary["crosscheck"]
    figures: Figures = {
        "data": summary["dataset"].partition(" ")[0],  # not where it lies
        "accuracy": summary["test_accuracy"],
        "rate": summary["images_per_second"],
        "memory": None if peak is None else peak / 2**20,
        "first_step": first_step,
        "whole": whole,
        "skipped": summary["skipped_steps"],
        "verdict": check["verdict"],
        "eta": check["max_eta"],
    }
    if check["verdict"] not in ("match", "not recorded"):
        raise Problem(f"the cross-check says {check['verdict']}", figures)
    return figures


PART = Cases(
    title="whole runs of the trainer, each in a process of its own",
    columns=(
        Column(key="data", title="images"),
        Column(key="accuracy", title="test accuracy", form=".2%"),
        Column(key="rate", title="images/s", form=",.0f"),
        Column(key="memory", title="peak MiB", form=",.0f"),
        Column(key="first_step", title="start to first step, s", form=".1f"),
        Column(key="whole", title="start to end, s", form=".1f"),
        Column(key="skipped", title="skipped steps"),
        Column(key="verdict", title="cross-check"),
        Column(key="eta", title="worst eta", form=".2f"),
    ),
    cases=_cases,
)
