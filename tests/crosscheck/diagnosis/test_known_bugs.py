"""A mismatch that comes from a known error of torch says so."""

from pathlib import Path

import pytest
import torch

from crosscheck import Recorder, Report, Verdict, replay
from crosscheck.recorder.header import versions
from tests.crosscheck.recording import make_parameters, take_steps


def nothing_moves(*_args: object, **_kwargs: object) -> None:
    """Leave all elements as they are, as the kernel does with whole vectors of them."""


def report_of(folder: Path, dtype: torch.dtype, version: str, monkeypatch: pytest.MonkeyPatch) -> Report:
    """Replay steps of a fused SGD that moves nothing, recorded with this version of torch."""
    told = versions() | {"torch": version}
    monkeypatch.setattr("crosscheck.recorder.recorder.versions", lambda: told)
    monkeypatch.setattr(torch, "_fused_sgd_", nothing_moves)
    parameters = [parameter.detach().to(dtype).requires_grad_() for parameter in make_parameters((4, 8))]
    optimizer = torch.optim.SGD(parameters, lr=0.5, fused=True)
    with Recorder(optimizer, folder):
        take_steps(optimizer, parameters, (1, 2, 3))
    report = replay(folder)
    assert report.verdict is Verdict.MISMATCH
    return report


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("version", ["2.11.0+cu130", "2.13.0"])
def test_fused_sgd_of_halves_on_a_cpu(
    dtype: torch.dtype, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [warning] = report_of(tmp_path, dtype, version, monkeypatch).warnings
    assert "pytorch issue 191763" in warning


@pytest.mark.parametrize(("dtype", "version"), [(torch.bfloat16, "2.14.1"), (torch.float32, "2.11.0")])
def test_what_torch_does_right_is_not_blamed_on_it(
    dtype: torch.dtype, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not report_of(tmp_path, dtype, version, monkeypatch).warnings
