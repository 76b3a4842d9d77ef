"""Writes summary.json: what a run came to, and the verdict of its cross-check once there is one. Its keys are an interface."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import nn

from distrib.checkpoint.progress import Progress
from distrib.data.images import as_bytes
from distrib.display import Display
from distrib.errors import RunFault
from distrib.files import read_json, retry_transient, write_json
from distrib.layout import CROSSCHECK, CROSSCHECK_PAGE, MISTAKES, PAGE, SUMMARY
from distrib.optim.optimizer import implementation
from distrib.page.live import available
from distrib.ranks.world import device_name
from distrib.text import count
from distrib.training.evaluate import Score
from distrib.training.metrics.figures import peak_memory
from distrib.training.run import Run

NOT_RECORDED, NOT_REPLAYED = "not recorded", "not replayed"
"""The verdicts before a replay has given one."""


def write(run: Run, step: int, score: Score, progress: Progress, rates: Mapping[str, float | None]) -> dict[str, Any]:
    """Write the summary of a run that ended after `step` on rank 0, and return it on every rank. Raises OSError.

    `rates` are those of the last start, by the names that metrics.jsonl has for them.
    """
    result = {
        "test_accuracy": score.accuracy,
        "test_loss": score.loss,
        "train_loss": progress.train_loss,
        "best_test_accuracy": progress.best_accuracy,
        "best_step": progress.best_step,
        "epochs": run.plan.epoch_of(step),
        "steps": step,
        "ended_early": run.config.training.enough(progress) if step < run.total_steps else None,
        "applied_updates": run.update.applied,
        "skipped_steps": run.update.skipped,
        **rates,
        "flop": run.compute.flop(run.plan.images(step)),
        "world_size": run.accelerator.num_processes,
        "device": device_name(run.accelerator.device),
        "peak_memory": peak_memory(),
        "peak_device_memory": torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else None,  # bytes
        "precision": run.precision.mode,
        "optimizer": type(run.optimizer).__name__,
        "fused": implementation(run.optimizer) == "fused",
        "dataset": run.dataset_name,
        "seed": run.config.training.seed,
        "network": {
            "name": run.config.model.name,
            "file": None if run.code is None else str(run.code.path),
            "sha256": None if run.code is None else run.code.sha256,
        },
        "parameters": sum(p.numel() for p in run.module.parameters()),
        "resumed_from": None if run.resumed.path is None else str(run.resumed.path),
        "weights_sha256": weights_sha256(run.module),
        "crosscheck": {
            "verdict": NOT_REPLAYED if run.config.crosscheck.record else NOT_RECORDED,
            "max_eta": None,
            "steps_checked": 0,
            "rank_checks": run.replica_check.made,
        },
    }
    if run.accelerator.is_main_process:
        write_json(run.folder / SUMMARY, result)
    return result


def withdraw(folder: Path) -> bool:
    """Remove the results of a run that goes on, because they are those of an earlier step. Return whether there were any.

    Raises OSError. The summary goes last: a report without one is that of a live replay, which stays. What is no file, such as a
    pipe, is not removed: the summary that is written in its place is refused.
    """
    if not (folder / SUMMARY).is_file():
        return False
    for path in [folder / name for name in (CROSSCHECK, CROSSCHECK_PAGE, MISTAKES, SUMMARY)]:
        retry_transient(path, lambda path=path: path.unlink(missing_ok=True))
    return True


def weights_sha256(module: nn.Module) -> str:
    """Return a hash over name, dtype, shape and bytes of each tensor of the state dict, names sorted."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(as_bytes(tensor))
    return digest.hexdigest()


class _Crosscheck(BaseModel):
    verdict: str


class _Summary(BaseModel):
    """What is read of a summary."""

    steps: int
    crosscheck: _Crosscheck


def completed_steps(folder: Path) -> int | None:
    """Return the number of steps that the folder's summary gives, or None if it has none, or one that is damaged.

    Raises OSError.
    """
    found = _read(folder)
    return None if found is None else found[1].steps


def verdict(folder: Path) -> str | None:
    """Return the verdict of the cross-check in the folder's summary, or None as `completed_steps` does. Raises OSError."""
    found = _read(folder)
    return None if found is None else found[1].crosscheck.verdict


def add_verdict(folder: Path, report: dict[str, Any]) -> None:
    """Add to the summary what a replay found; `report` is what `crosscheck.read_report` returns.

    Raises OSError, and RunFault if it is damaged.
    """
    found = _read(folder)
    if found is None:
        raise RunFault(f"{folder / SUMMARY} is no summary any more: somebody changed it while its trace was replayed")
    result, _ = found
    result["crosscheck"] |= {
        "verdict": report["verdict"],
        "max_eta": report["max_eta"],
        "steps_checked": report["steps"] - report["skipped"],
    }
    write_json(folder / SUMMARY, result)


def _read(folder: Path) -> tuple[dict[str, Any], _Summary] | None:
    """Return the summary, whole and as far as it is read. Raises OSError, but not for one that is missing."""
    try:
        found = read_json(folder / SUMMARY)
        return found, _Summary.model_validate(found, strict=True)
    except (FileNotFoundError, ValueError):  # pydantic's error is a ValueError
        return None


def print_closing_lines(display: Display, result: dict[str, Any], folder: Path) -> None:
    """Print the closing lines of a run."""
    speed = result["images_per_second"]
    if result["ended_early"] is not None:
        display.say(f"ended early: {result['ended_early']}")
    display.say(
        f"done: test accuracy {result['test_accuracy']:.2%} on {result['dataset']} after "
        f"{count(result['epochs'], 'epoch')} "
        f"({count(result['applied_updates'], 'update')} of {'fused ' if result['fused'] else ''}{result['optimizer']}"
        + (f", {result['skipped_steps']} skipped)" if result["precision"] == "fp16" else ")")
        + (f", {speed:,.0f} images/s" if speed else "")
        + f" with {count(result['world_size'], 'process')} on {result['device']}"
    )
    trace = "" if result["crosscheck"]["verdict"] == NOT_RECORDED else ", trace/"
    page = f"{PAGE}, " if available() else ""
    display.say(f"outputs: {folder}/ ({page}summary.json, metrics.jsonl, checkpoints/{trace})")
