"""The folder of a run that never was, with everything in it that a page must bear."""

import base64
import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

HOSTILE = "<script>alert(1)</script>"
HOSTILE_CLASSES = [HOSTILE, '" onload="alert(2)', "</figure>\u2028line\u2029", "{{ 7 * 7 }}", "a\u202eb", "caf\udce9"]
RECIPE = "my 'own' \"recipe\" </script>.toml"


def hostile_run(folder: Path, *, epochs: int = 3, steps_per_epoch: int = 40) -> Path:
    """Write a run in float16 that was stopped, resumed, killed, resumed and ended by a fault, with hostile names everywhere."""
    total = epochs * steps_per_epoch
    write(folder / "page" / "facts.json", facts(folder, total, steps_per_epoch))
    write(folder / "page" / "images.json", {"step": 1, "augmented": True, "images": list(images())})
    write(folder / "page" / "mistakes.json", mistakes())
    write(
        folder / "status.json", {"state": "failed", "exit_code": 1, "reason": f"fault: {HOSTILE}\u2028", "step": None}
    )
    write(folder / "summary.json", SUMMARY)
    write(folder / "crosscheck.json", CROSSCHECK)
    (folder / "config.toml").write_text(
        "[training]\nbatch_size = 64\nclip_norm = 1.0\nseed = 0\n"
        '[data]\nsource = "folder:</script><img src=x onerror=alert(3)>"\n',
        encoding="utf-8",
    )
    lines = "\n".join(json.dumps(line) for line in metrics(total, steps_per_epoch))
    # A kill cut it short.
    (folder / "metrics.jsonl").write_text(lines + '\n{"kind": "step", "step": ', encoding="utf-8")
    return folder


def metrics(total: int, steps_per_epoch: int) -> Iterator[dict[str, Any]]:
    """Yield the lines of a run whose loss falls; the third step is skipped, and the fifth has a loss that is no number."""
    for step in range(1, total + 1):
        epoch = (step - 1) // steps_per_epoch + 1
        yield {
            "kind": "step",
            "step": step,
            "epoch": epoch,
            "loss": math.nan if step == 5 else 2.3 * math.exp(-2 * step / total) + 0.1 * math.sin(step),
            "lr": 0.1 * math.sin(math.pi * step / total),
            "applied": step != 3,
            "seconds": 0.05 + 0.01 * math.cos(step),
            "data_seconds": 0.002,
            "gradient_norm": None if step == 3 else 1 + 0.5 * math.sin(step * 0.7),
            "loss_scale": 65536.0 if step <= 3 else 32768.0,
        }
        if step % steps_per_epoch == 0:
            accuracy = 1 - math.exp(-2 * step / total)
            yield {
                "kind": "epoch",
                "step": step,
                "epoch": epoch,
                "train_loss": 1.5,
                "test_loss": 1.4,
                "test_accuracy": accuracy,
                **RATES,
                "flop": 7 * 10**7 * 64 * step,
            }


def facts(folder: Path, total: int, steps_per_epoch: int) -> dict[str, Any]:
    third = total // 3
    stopped = {"state": "stopped", "exit_code": 75, "reason": "SIGTERM <b>", "reached": third}
    killed = {"state": "running", "exit_code": None, "reason": "", "reached": 2 * third}
    return {
        "command": f"python -m distrib.train '{RECIPE}'",
        "folder": str(folder),
        "machine": {"host": HOSTILE, "processes": 2},
        "versions": {"torch": "2.14", "CUDA": None},
        "data": {"source": HOSTILE},
        "classes": HOSTILE_CLASSES,
        "flop_per_image": 70_000_000,
        "peak_flop_per_second": 2e11,
        "total_steps": total,
        "steps_per_epoch": steps_per_epoch,
        "defaults": {"training.batch_size": 128, "training.clip_norm": None, "training.seed": 0, "data.source": "auto"},
        "starts": [
            {"time": 1.8e9, "step": 0, "world_size": 2},
            {"time": 1.8e9 + 60, "step": third, "world_size": 2, "before": stopped},
            {"time": 1.8e9 + 120, "step": third + 5, "world_size": 1, "before": killed},
        ],
    }


def images() -> Iterator[dict[str, str]]:
    """Yield an image of one color for each class."""
    for number, name in enumerate(HOSTILE_CLASSES):
        file = io.BytesIO()
        Image.new("RGB", (32, 32), (40 * number, 120, 255 - 40 * number)).save(file, "PNG")
        yield {"label": name, "png": base64.b64encode(file.getvalue()).decode()}


def mistakes() -> dict[str, Any]:
    """Return a confusion of each class with the next one, and one mistake of each."""
    size = len(HOSTILE_CLASSES)
    confusion = [[90 if j == i else 10 if j == (i + 1) % size else 0 for j in range(size)] for i in range(size)]
    worst = [{**image, "predicted": HOSTILE, "loss": 9.0} for image in images()]
    return {"classes": HOSTILE_CLASSES, "confusion": confusion, "worst": worst}


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


RATES = {
    "images_per_second": 1280.0,
    "flop_per_second": 9e10,
    "share_of_peak": 0.45,
    "data_share": 0.04,
    "peak_memory": 2**30,
}
SUMMARY = {
    "test_accuracy": 0.86,
    "test_loss": 0.5,
    "images_per_second": 1234.5,
    "skipped_steps": 1,
    "weights_sha256": "ab" * 32,
    "crosscheck": {"verdict": "mismatch", "max_eta": "inf", "steps_checked": 120, "rank_checks": 0},
}
CROSSCHECK = {
    "verdict": "mismatch",
    "reason": HOSTILE,
    "optimizer": HOSTILE,
    "rule": "sgd",
    "profiles": ["fused on cpu"],
    "max_eta": "inf",
    "worst": HOSTILE,
    "findings": [
        {
            "step": 2,
            "tensor": HOSTILE,
            "slot": "param",
            "cause": HOSTILE,
            "recorded": 0.5,
            "expected": "nan",
            "eta": "inf",
        }
    ],
    "warnings": [HOSTILE],
    "not_tested": [HOSTILE],
    "claims_not_tested": ["clip_norm"],
    "checks": {"optimizer": "mismatch", HOSTILE: "match"},
    "power": {HOSTILE: {"lr": {"element": 1e-6, "aggregate": "inf"}}},
    "steps": 120,
    "tensors": 10,
    "elements": 1000,
}
