"""Whether a run that was interrupted ends with the bytes of one that was not, and what an overflow at step 1 leaves."""

import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distrib.optim.optimizer import SGD, build_optimizer
from distrib.optim.update import Update
from tests.gpu import training
from tests.gpu.part import Case, Cases, Problem, Setting, Skipped
from tests.gpu.report import Column, Figures

EXIT_STOPPED = 75
_ASKED_AFTER = 6  # steps


def _cases(setting: Setting) -> list[Case]:
    return [
        Case("overflow at step 1, fused SGD", partial(_overflow, setting)),
        *(
            Case(f"interrupted and resumed, {recipe}, {mode}", partial(_resume, setting, recipe, mode))
            for recipe, mode in (
                ("speed", "bf16"),
                ("sgd-onecycle", "fp16"),
                ("adam-onecycle", "bf16"),
                ("sgd-onecycle", "no"),
            )
        ),
    ]


def _resume(setting: Setting, recipe: str, mode: str) -> Figures:
    """Both runs at once, because most of their time goes into starting."""
    if setting.small and mode != "no":
        raise Skipped("not rehearsed")
    options = training.arguments(
        setting,
        "--training.deterministic=true",
        f"--precision.mode={mode}",
        f"--data.train_images={640 if setting.small else 12_800}",
        "--data.test_images=100",
        "--training.epochs=2",
        "--crosscheck.record=false",
    )
    straight, broken = (
        training.start(recipe, setting.work / f"{name}-{recipe}-{mode}", options) for name in ("straight", "broken")
    )
    broken.wait_for_step(_ASKED_AFTER)
    broken.process.send_signal(signal.SIGTERM)
    broken.expect(EXIT_STOPPED)
    resumed = training.start(recipe, broken.folder, options)
    resumed.expect(0)
    straight.expect(0)
    return compare(straight.summary(), resumed.summary())


def compare(straight: Mapping[str, Any], resumed: Mapping[str, Any]) -> Figures:
    """The figures of two runs that must have ended alike, from their summaries. Raises Problem if they have not."""
    figures: Figures = {
        "steps": straight["steps"],
        "same": straight["weights_sha256"] == resumed["weights_sha256"],
        "result": f"resumed from {Path(str(resumed['resumed_from'])).name}; {resumed['skipped_steps']} skipped steps",
    }
    if resumed["resumed_from"] is None:
        raise Problem("the run was not resumed", figures)
    if not figures["same"]:
        raise Problem("the resumed run ended with other weights", figures)
    return figures


def _overflow(setting: Setting) -> Figures:
    """torch alone keeps a momentum buffer that its kernel never wrote; the trainer's update keeps none."""
    alone = _buffer_after_overflow(setting, through_update=False)
    ours = _buffer_after_overflow(setting, through_update=True)
    figures: Figures = {
        "steps": 1,
        "result": f"torch alone: {alone}; the trainer's update: {ours}",
        "same": ours == "no buffer",
    }
    if ours != "no buffer":
        raise Problem("a skipped first step left a momentum buffer", figures)
    return figures


def _buffer_after_overflow(setting: Setting, *, through_update: bool) -> str:
    weight = torch.nn.Linear(64, 64, bias=False).to(setting.device)
    config = SGD(lr=0.1, momentum=0.9, fused=True)
    optimizer = build_optimizer(config, weight.named_parameters(), torch.device(setting.device))
    scaler = torch.amp.GradScaler(setting.device)
    update = Update(weight, optimizer, lambda _applied: 1.0, scaler)
    scaler.scale((weight.weight * torch.inf).sum()).backward()
    if through_update:
        update.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    buffer = optimizer.state.get(weight.weight, {}).get("momentum_buffer")
    if buffer is None:
        return "no buffer"
    return "a buffer of zeros" if not buffer.any() else "a buffer of numbers that nobody wrote"


PART = Cases(
    title="interrupted runs that end with the bytes of undisturbed ones, and an overflow that leaves nothing",
    columns=(
        Column(key="steps", title="steps"),
        Column(key="same", title="as it should be"),
        Column(key="result", title="what happened"),
    ),
    cases=_cases,
)
