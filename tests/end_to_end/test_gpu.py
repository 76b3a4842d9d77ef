"""The trainer runs on a CUDA device as it does on a CPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distrib.training.metrics.late_number import LateNumber
from tests import support
from tests.support import QUICKSTART, RECIPES, ROOT, losses, read_json, train_well

SMALL = (*support.SMALL, "--data.train_images=320", "--training.batch_size=32")
"""The tolerances of these tests are for batches of this size."""

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def train_on_gpu(folder: Path, *arguments: str | Path, recipe: Path = QUICKSTART) -> dict[str, object]:
    """Train in a new process and return the summary. CUDA does not survive the fork with which other tests start ranks."""
    command = [sys.executable, "-m", "distrib.train", recipe, *arguments, "--output.dir", folder]
    result = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert result.returncode == 0, result.stderr
    return read_json(folder / "summary.json")


@pytest.mark.parametrize(("mode", "rel"), [("no", 1e-3), ("tf32", 1e-2), ("bf16", 1e-2), ("fp16", 1e-2)])
@pytest.mark.parametrize("recipe", ["sgd-onecycle", "adam-onecycle"])
def test_every_precision_gives_about_the_losses_of_the_cpu(tmp_path: Path, recipe: str, mode: str, rel: float) -> None:
    """After twenty steps; the GPU rounds elsewhere, and the formats with fewer digits more."""
    file = RECIPES / f"{recipe}.toml"
    train_well(tmp_path / "cpu", *SMALL, recipe=file)
    summary = train_on_gpu(tmp_path / "gpu", *SMALL, f"--precision.mode={mode}", recipe=file)
    assert (summary["fused"], summary["precision"]) == (True, mode)
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=rel)


def test_float32_gives_the_losses_of_the_cpu(tmp_path: Path) -> None:
    train_well(tmp_path / "cpu", *SMALL)
    train_on_gpu(tmp_path / "gpu", *SMALL, "--precision.mode=no")
    assert losses(tmp_path / "gpu") == pytest.approx(losses(tmp_path / "cpu"), rel=1e-4)


def test_overflow_at_the_first_step_leaves_the_run_healthy(tmp_path: Path) -> None:
    fp16 = ("--precision.mode=fp16", "--precision.init_scale=1e9")
    summary = train_on_gpu(tmp_path, *SMALL, *fp16)
    assert summary["skipped_steps"] != 0
    assert max(losses(tmp_path)) < 1.1 * losses(tmp_path)[0]  # a momentum of inf or nan would end the run


def test_a_resumed_run_is_bit_identical_in_deterministic_mode(tmp_path: Path) -> None:
    options = (*SMALL, "--training.deterministic=true", "--checkpoint.every_steps=7", "--checkpoint.keep=9")
    straight = train_on_gpu(tmp_path / "a", *options)
    resume = f"--checkpoint.resume={tmp_path / 'a' / 'checkpoints' / 'step-00000007'}"
    assert train_on_gpu(tmp_path / "b", *options, resume)["weights_sha256"] == straight["weights_sha256"]


@pytest.mark.parametrize(
    ("recipe", "mode", "kernels", "clip"),
    [  # every pair of values occurs
        ("sgd-onecycle", "no", "fused", True),
        ("sgd-onecycle", "bf16", "foreach", False),
        ("sgd-onecycle", "fp16", "fused", False),
        ("adam-onecycle", "no", "foreach", False),
        ("adam-onecycle", "bf16", "fused", True),
        ("adam-onecycle", "fp16", "foreach", True),
    ],
)
def test_the_cross_check_finds_nothing_around_the_update(
    tmp_path: Path, recipe: str, mode: str, kernels: str, clip: bool
) -> None:
    """It checks loss scaling, clipping, accumulation, moving average, schedule and the gradient itself; fp16 overflows."""
    options = (
        *SMALL,
        "--crosscheck.record=true",
        "--crosscheck.gradient_steps=[3]",
        "--training.accumulate=2",
        "--training.ema=0.9",
        f"--training.clip_norm={'0.5' if clip else 'none'}",
        f"--precision.mode={mode}",
        "--precision.init_scale=1e9",
        *(("--optimizer.foreach=true",) if kernels == "foreach" else ()),
    )
    summary = train_on_gpu(tmp_path, *options, recipe=RECIPES / f"{recipe}.toml")
    report = read_json(tmp_path / "crosscheck.json")
    assert report["verdict"] == "match", report["findings"]
    assert "not recorded" not in {result for name, result in report["checks"].items() if name != "loss scale"}
    assert (report["checks"]["loss scale"] == "match") == (mode == "fp16")
    assert report["skipped"] == summary["skipped_steps"]


@pytest.mark.parametrize("network", ["article", "speednet", "tests.networks:drawn"])
@pytest.mark.parametrize("mode", ["no", "bf16", "fp16"])
def test_a_captured_network_trains_as_one_that_is_not(tmp_path: Path, network: str, mode: str) -> None:
    """Batch norm, dropout and an overflow are among it."""
    recipe = RECIPES / "sgd-onecycle.toml"
    options = (*SMALL, f"--model.name={network}", f"--precision.mode={mode}", "--precision.init_scale=1e9")
    options += ("--training.ema=0.9", "--crosscheck.record=true")
    launched = train_on_gpu(tmp_path / "launched", *options, recipe=recipe)
    captured = train_on_gpu(tmp_path / "captured", *options, "--training.cuda_graph=true", recipe=recipe)
    assert losses(tmp_path / "captured") == pytest.approx(losses(tmp_path / "launched"), rel=1e-3)
    assert captured["test_loss"] == pytest.approx(launched["test_loss"], rel=1e-3)
    assert read_json(tmp_path / "captured" / "crosscheck.json")["verdict"] == "match"


def test_a_network_that_cannot_be_captured_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "distrib.train", RECIPES / "sgd-onecycle.toml", *SMALL]
    command += ["--model.name=tests.networks:Looking"]  # which reads a number from the GPU
    command += ["--training.cuda_graph=true", "--output.dir", tmp_path]
    result = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert result.returncode == 2, result.stderr
    assert "training.cuda_graph = true: the network cannot be captured" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_number_read_late_does_not_show_later_changes() -> None:
    value = torch.full((), 2.0, device="cuda")
    late = LateNumber(value)
    value.fill_(3.0)
    assert late.read() == 2.0
