"""Writes what the run page tells of a run beside its curves: where it runs, on what, from which command, and each of its starts.

RUN/page/facts.json is written at each start, and keeps what it says of the earlier ones. RUN/page/images.json holds images of
the first step that was taken, and RUN/page/mistakes.json what the network got wrong in the end.
"""

import base64
import io
import json
import platform
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import accelerate
import numpy
import torch
from PIL import Image

from distrib.config.section import Section
from distrib.files import Unfit, open_regular, read_json, retry_transient, write_json
from distrib.layout import FACTS, IMAGES, METRICS, MISTAKES
from distrib.ranks.world import device_name
from distrib.training.evaluate import Score
from distrib.training.recipe import RunConfig
from distrib.training.run import Run

_MOST_STARTS = 1000
_NUM_IMAGES = 32
_TAIL = 2**16  # bytes, of which the last line of metrics.jsonl takes a few hundred


def write(run: Run, arguments: Sequence[str], before: Mapping[str, Any]) -> None:
    """Write the facts of this start, on rank 0, before anything changes metrics.jsonl.

    `arguments` are those of the trainer; `before` is what status.json said of the start before this one, nothing if there
    was none. Raises OSError.
    """
    path = run.folder / FACTS
    start: dict[str, Any] = {"time": time.time(), "step": run.resumed.step, "world_size": run.plan.world_size}
    if before:
        reached = last_step(run.folder / METRICS)
        start["before"] = {key: before.get(key) for key in ("state", "exit_code", "reason")} | {"reached": reached}
    retry_transient(path, lambda: path.parent.mkdir(exist_ok=True))
    facts = _facts(run, arguments)
    earlier = earlier_starts(path, run.display.say)
    write_json(path, {**facts, "starts": [*earlier, start][-_MOST_STARTS:]})
    if not (run.folder / IMAGES).exists() and run.resumed.step < run.total_steps:
        write_json(run.folder / IMAGES, _images(run, run.resumed.step + 1))


def write_mistakes(run: Run, score: Score) -> None:
    """Write what an evaluation got wrong, on rank 0. Raises OSError."""
    if score.mistakes is not None:
        write_json(run.folder / MISTAKES, score.mistakes.to_json(run.test, run.classes, _png))


def _facts(run: Run, arguments: Sequence[str]) -> dict[str, Any]:
    config, plan, device = run.config, run.plan, run.accelerator.device
    return {
        "command": shlex.join(["python", "-m", "distrib.train", *arguments]),
        "folder": str(run.folder),
        "machine": {
            "host": socket.gethostname(),
            "system": platform.platform(),
            "device": device_name(device),
            "hardware": run.identity.hardware,
            "processes": plan.world_size,
            "threads a process": run.identity.threads,
        },
        "versions": {
            "Python": platform.python_version(),
            "torch": torch.__version__,
            "CUDA": torch.version.cuda if device.type == "cuda" else None,
            "accelerate": accelerate.__version__,
            "numpy": numpy.__version__,
        },
        "data": {
            "source": run.dataset_name,
            "training images": plan.num_images,
            "test images": len(run.test),
            "steps an epoch": plan.steps_per_epoch,
        },
        "classes": list(run.classes),
        "parameters": sum(p.numel() for p in run.module.parameters()),
        "flop_per_image": run.compute.flop_per_image,
        "peak_flop_per_second": run.compute.peak,
        "precision": run.precision.mode,
        "total_steps": run.total_steps,
        "steps_per_epoch": plan.steps_per_epoch,
        "images_per_epoch": plan.images(plan.steps_per_epoch),
        "defaults": _defaults(config),
    }


def _images(run: Run, step: int) -> dict[str, Any]:
    """Return the first images of the step's global batch as the network sees them, before their pixels are normalised."""
    images, labels, mixed = run.batches.whole(step)
    names = [run.classes[int(label)] for label in labels[:_NUM_IMAGES]]
    if mixed is not None:
        others = [run.classes[int(label)] for label in mixed.labels[:_NUM_IMAGES]]
        names = [
            f"{mixed.share:.0%} {one}, {1 - mixed.share:.0%} {two}" for one, two in zip(names, others, strict=True)
        ]
    shown = [{"label": name, "png": _png(image)} for image, name in zip(images[:_NUM_IMAGES].cpu(), names, strict=True)]
    return {"step": step, "augmented": run.config.data.augment, "images": shown}


def _png(image: torch.Tensor) -> str:
    """Return an image (H, W, C) uint8 as PNG, in base64."""
    file = io.BytesIO()
    Image.fromarray(image.numpy()).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _defaults(config: RunConfig) -> dict[str, Any]:
    """Return the default of each key that has one, for the kinds of optimizer and schedule that the run has."""
    found: dict[str, Any] = {}
    for section, values in cast(Iterable[tuple[str, Section]], config):
        fields = type(values).model_fields
        found |= {f"{section}.{name}": field.default for name, field in fields.items() if not field.is_required()}
        if "name" in fields:  # a kind's own name is its default; the section's default may be another kind
            found[f"{section}.name"] = getattr(RunConfig.model_fields[section].default, "name", None)
    return found


def earlier_starts(path: Path, say: Callable[[str], None]) -> list[Any]:
    """Return what the file says of earlier starts; nothing if there is none.

    One that is damaged is kept under another name, and `say` is told, because a new one takes its place. Raises OSError.
    """
    try:
        starts = read_json(path)["starts"]
        if isinstance(starts, list):
            return cast(list[Any], starts)
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError):
        pass
    kept = path.with_name(f"{path.name}.damaged")
    path.replace(kept)
    say(f"note: {path} does not say which starts the run had before this one: it is kept as {kept.name}")
    return []


def last_step(metrics: Path) -> int | None:
    """Return the step of the last whole line, or None where there is none."""
    try:
        with open_regular(metrics, sys.maxsize) as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            lines = file.read().splitlines()
    except (FileNotFoundError, Unfit):
        return None
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, TypeError, KeyError):
            continue
    return None
