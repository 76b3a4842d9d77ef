"""The profile "fused on cuda" is compared with torch's own CUDA kernel of Adam, compiled for the CPU.

This is evidence, not proof. nvcc has its own power function, with an error of up to 4 ulp, and chooses itself which
multiplications and additions to contract. The header writes the two averages as fused operations and leaves only weight decay to
the compiler; the build with contraction contracts that too. In torch's own binary (2.14.1+cu130, sm_90: `cuobjdump -sass` of
libtorch_cuda.so) the float32 kernels of Adam, AdamW and SGD with momentum use float64 only to convert hyperparameters.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from crosscheck import Recorder, Report, Verdict, replay
from crosscheck.testing import gradient
from crosscheck.tolerance import WARN
from tests.crosscheck.cuda_host.kernel import Alteration, Arguments, Kernel, build, put_in_place
from tests.crosscheck.recording import overflowing_steps
from tests.crosscheck.trace import trace_files
from tests.crosscheck.trace.trace_files import Meta

WORST = 3.0
"""No correct record has a larger eta."""
WEAKEST = 50.0
"""Every planted error has a larger eta over its whole record. The weakest are eps 1 % off, with 392 in float32, and eps ten
times as large, with 49,626 in bfloat16."""
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
KINDS = (torch.optim.Adam, torch.optim.AdamW)
DECAY = {"weight_decay": 0.05}
GROUPS: dict[str, dict[str, Any]] = {
    "plain": {"weight_decay": 0.0},
    "decay": DECAY,
    "maximize": {**DECAY, "maximize": True},
    "amsgrad": {**DECAY, "amsgrad": True, "betas": (0.8, 0.99), "eps": 1e-7},
}
SIZES = {"typical": 512, "tiny": 301}  # the kernel loads four elements at once if their number is a multiple of four


# So that one worker compiles the kernel, which takes it a quarter of a minute.
pytestmark = pytest.mark.xdist_group("cuda host")


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    return build(tmp_path_factory.mktemp("plain"), contract=False)


@pytest.fixture(scope="session")
def contracted(tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    return build(tmp_path_factory.mktemp("contracted"), contract=True)


@pytest.fixture(params=["plain", "contracted"])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return request.getfixturevalue(request.param)


def run(
    trace: Path,
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    dtype: torch.dtype = torch.float32,
    *,
    groups: Iterable[str] = GROUPS,
    steps: int = 8,
) -> tuple[dict[str, Parameter], torch.optim.Optimizer]:
    """Record a few steps of a fused optimizer with these parameter groups. Return its tensors by group and regime."""
    generator = torch.Generator().manual_seed(0)
    named = {
        f"{group}.{regime}": Parameter(torch.randn(size, generator=generator, dtype=torch.float64).to(dtype))
        for group in groups
        for regime, size in SIZES.items()
    }
    settings = [{"params": [named[f"{group}.{regime}"] for regime in SIZES], **GROUPS[group]} for group in groups]
    optimizer = kind(settings, lr=0.01, fused=True)
    with Recorder(optimizer, trace, named_parameters=named.items(), steps="all" if steps < 10 else "sampled"):
        for step in range(steps):
            for number, (name, p) in enumerate(named.items()):
                p.grad = gradient(name.partition(".")[2], p.numel(), dtype, 10 * step + number)
            optimizer.step()
    return named, optimizer


def replay_on(device: str, trace: Path) -> Report:
    """Replay as if the tensors had been on this device. The record has the CPU, for which the kernel was compiled."""

    def move(meta: Meta, _: object) -> None:
        for tensor in meta["tensors"]:
            tensor["device"] = device

    parts = len(list(trace_files.segment(trace).glob("part-*")))
    for number in range(1, parts + 1):
        trace_files.rewrite(trace, number, move)
    report = replay(trace)
    assert report.profiles == (f"fused on {device}",)
    return report


def check_match(report: Report) -> None:
    assert report.verdict is Verdict.MATCH, str(report)
    assert report.max_eta < WORST, str(report)
    assert not report.warnings


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_matches_its_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: Kernel, kind: Any, dtype: torch.dtype
) -> None:
    put_in_place(monkeypatch, kernel)
    run(tmp_path, kind, dtype)
    check_match(replay_on("cuda", tmp_path))


def test_bias_corrections_match_far_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Kernel
) -> None:
    put_in_place(monkeypatch, plain)
    run(tmp_path, groups=["plain"], steps=300)
    check_match(replay_on("cuda", tmp_path))


def test_weight_decay_is_all_that_contraction_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Kernel, contracted: Kernel
) -> None:
    """The header itself writes its averages as fused operations and leaves only param times decay to the compiler."""
    ends: list[dict[str, Parameter]] = []
    for name, kernel in (("plain", plain), ("contracted", contracted)):
        put_in_place(monkeypatch, kernel)
        ends.append(run(tmp_path / name)[0])
    same = {name: torch.equal(p, ends[1][name]) for name, p in ends[0].items()}
    assert same == {name: name.startswith("plain") for name in same}


def test_the_second_moment_shows_that_beta2_is_rounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Kernel
) -> None:
    """In float32, 1 - beta2 is smaller than 0.001 by a relative 1.3e-5. So is the first v, and by nothing else."""
    moments: list[Tensor] = []
    for name in ("cpu", "cuda"):
        named, optimizer = run(tmp_path / name, groups=["plain"], steps=1)
        moments.append(optimizer.state[named["plain.typical"]]["exp_avg_sq"].double())
        put_in_place(monkeypatch, plain)
    on_cpu, on_cuda = (v[moments[0] > 1e-30] for v in moments)
    expected = (1 - float(np.float32(0.999))) / (1 - 0.999) - 1
    assert expected == pytest.approx(-1.29e-5, rel=0.01)
    assert float((on_cuda / on_cpu - 1 - expected).abs().max()) < 4 * 2.0**-24


@pytest.mark.parametrize("kind", KINDS)
def test_each_profile_refuses_the_arithmetic_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Kernel, kind: Any
) -> None:
    """This shows that the profile explains the difference, and not merely a wide tolerance."""
    monkeypatch.setattr("crosscheck.checks.judging.judge.diagnose", no_cause)
    run(tmp_path / "cpu", kind)
    put_in_place(monkeypatch, plain)
    run(tmp_path / "cuda", kind)
    for own, other in (("cpu", "cuda"), ("cuda", "cpu")):
        assert replay_on(own, tmp_path / own).max_eta < WARN
        report = replay_on(other, tmp_path / own)
        assert report.verdict is Verdict.MISMATCH
        assert report.findings[0].slot == "exp_avg_sq"
        assert report.max_eta > WEAKEST


def no_cause(*_: object) -> list[str]:
    """Name no cause: that takes a minute of compiling and is tested elsewhere."""
    return []


def told(**numbers: Callable[[Arguments], Any]) -> Alteration:
    """Return an alteration that gives the kernel other arguments than the optimizer does."""
    return lambda arguments: {**arguments, **{name: wrong(arguments) for name, wrong in numbers.items()}}


def times(factor: float, name: str) -> Alteration:
    return lambda arguments: {**arguments, name: factor * arguments[name]}


COARSE: dict[str, Alteration] = {
    "betas swapped": told(beta1=lambda a: a["beta2"], beta2=lambda a: a["beta1"]),
    "step one ahead": told(step=lambda a: a["step"] + 1),
    "step one behind": told(step=lambda a: (a["step"] - 1).clamp(min=1)),
    "bias corrections missing": told(step=lambda a: a["step"] + 1e9),
    "weight decay of the other kind": told(decoupled=lambda a: not a["decoupled"]),
    "amsgrad not used": told(tensors=lambda a: a["tensors"][:4]),
    "maximize ignored": told(maximize=lambda _: False),
    "gradient unscaled unasked": told(grad_scale=lambda _: torch.tensor(2.0)),
    "eps ten times": times(10, "eps"),
    "beta2 0.1 % off": times(0.999, "beta2"),
}
"""Planted errors that show in bfloat16 as well."""
FAULTS = {
    **COARSE,
    "lr 1 % off": times(1.01, "lr"),
    "lr 0.1 % off": times(1.001, "lr"),
    "beta1 0.1 % off": times(1.001, "beta1"),
    "eps 1 % off": times(1.01, "eps"),
    "eps missing": times(1e-30, "eps"),
    "weight decay missing": times(0, "weight_decay"),
    "weight decay 1 % off": times(1.01, "weight_decay"),
}
PLANTED = [
    *((fault, torch.float32) for fault in FAULTS),
    *((fault, dtype) for fault in COARSE for dtype in (torch.bfloat16, torch.float16)),
]


@pytest.mark.parametrize(("fault", "dtype"), PLANTED, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_error_is_a_mismatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Kernel, kind: Any, fault: str, dtype: torch.dtype
) -> None:
    monkeypatch.setattr("crosscheck.checks.judging.judge.diagnose", no_cause)
    put_in_place(monkeypatch, plain, FAULTS[fault])
    run(tmp_path, kind, dtype)
    report = replay_on("cuda", tmp_path)
    assert report.verdict is Verdict.MISMATCH
    assert report.max_eta > WEAKEST, report.max_eta


def test_the_known_beta_is_given_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Kernel) -> None:
    """If the bound allowed bias corrections a beta that is off by one roundoff, eta would only be 270 here."""
    monkeypatch.setattr("crosscheck.checks.judging.judge.diagnose", no_cause)
    put_in_place(monkeypatch, plain, FAULTS["lr 0.1 % off"])
    run(tmp_path)
    assert replay_on("cuda", tmp_path).max_eta > 1000


def run_scaled(trace: Path, dtype: torch.dtype = torch.float32) -> list[str]:
    """Take eight steps under torch's own loss scaler. Steps 1 and 5 overflow; return the names of what these two moved."""
    weight = Parameter(torch.linspace(-1, 1, 302).to(dtype))
    optimizer = torch.optim.AdamW([weight], lr=0.01, weight_decay=0.05, amsgrad=True, fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=1000.0)
    seen: list[dict[str, Tensor]] = [{"weight": weight.detach().clone()}]

    def look(step: int, applied: bool) -> None:
        now = {"weight": weight.detach(), **optimizer.state[weight]}
        if not applied:
            names = seen[-1] if step > 1 else ["weight"]
            moved.extend(name for name in names if not torch.equal(now[name], seen[-1][name]))
        seen.append({name: value.clone() for name, value in now.items()})

    moved: list[str] = []
    with Recorder(optimizer, trace, scaler=scaler, steps="all") as recorder:
        overflowing_steps(optimizer, weight, recorder, scaler, steps=8, skip={1, 5}, after=look)
    return moved


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_kernel_unscales_and_skips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: Kernel, dtype: torch.dtype
) -> None:
    put_in_place(monkeypatch, kernel)
    assert run_scaled(tmp_path, dtype) == []
    report = replay_on("cuda", tmp_path)
    check_match(report)
    assert (report.steps, report.skipped) == (8, 2)


SCALED: dict[str, Alteration] = {
    "unscaled twice": told(grad_scale=lambda a: a["grad_scale"] ** 2),
    "not unscaled": told(grad_scale=lambda _: None),
    "overflow ignored": told(found_inf=lambda _: None),
}


@pytest.mark.parametrize("fault", SCALED)
def test_a_scale_or_an_overflow_ignored_is_a_mismatch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: Kernel, fault: str
) -> None:
    monkeypatch.setattr("crosscheck.checks.judging.judge.diagnose", no_cause)
    put_in_place(monkeypatch, plain, SCALED[fault])
    moved = run_scaled(tmp_path)
    assert bool(moved) == (fault == "overflow ignored")
    report = replay_on("cuda", tmp_path)
    assert report.verdict is Verdict.MISMATCH
    assert report.findings[0].eta > WEAKEST
