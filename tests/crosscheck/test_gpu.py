"""The recorder and the arithmetic profiles are tested on a CUDA device."""

from pathlib import Path
from typing import Any

import pytest
import torch

from crosscheck import Recorder, Verdict, replay
from crosscheck.testing import gradient
from tests.crosscheck.recording import overflowing_steps

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05, "nesterov": True}),
    "adam": (torch.optim.Adam, {"lr": 1e-2, "weight_decay": 0.05}),
    "adamw": (torch.optim.AdamW, {"lr": 1e-2, "amsgrad": True, "maximize": True}),
}
IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "single": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "capturable": {"foreach": False, "capturable": True},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_kernels_match_their_profile(tmp_path: Path, name: str, implementation: str, dtype: torch.dtype) -> None:
    kind, options = OPTIMIZERS[name]
    if name == "sgd" and implementation == "capturable":
        pytest.skip("SGD has no such option")
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(2000, generator=generator).to("cuda", dtype)
    parameters = {regime: torch.nn.Parameter(start.clone()) for regime in ("typical", "tiny")}
    optimizer = kind(parameters.values(), **options, **IMPLEMENTATIONS[implementation])  # pyright: ignore[reportArgumentType]
    with Recorder(optimizer, tmp_path, named_parameters=parameters.items(), steps="all"):
        for step in range(8):
            for regime, parameter in parameters.items():
                parameter.grad = gradient(regime, 2000, dtype, step).cuda()
            optimizer.step()
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.max_eta <= 16, str(report)


@pytest.mark.parametrize("fused", [True, False])
def test_skipped_steps_are_seen(tmp_path: Path, fused: bool) -> None:
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 600, device="cuda"))
    optimizer = torch.optim.Adam([weight], lr=1e-2, fused=fused)
    scaler = torch.amp.GradScaler("cuda")
    with Recorder(optimizer, tmp_path, scaler=scaler) as recorder:
        overflowing_steps(optimizer, weight, recorder, scaler, steps=8, skip={1, 5})
    report = replay(tmp_path)
    assert report.verdict is Verdict.MATCH, str(report)
    assert (report.steps, report.skipped) == (8, 2)
