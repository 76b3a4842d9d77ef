"""Recording works under Accelerate, DDP, compilers and loss scalers. Sharded optimizers are refused."""

from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn import Parameter
from torch.optim import SGD, Adam, AdamW, Optimizer

from crosscheck import Recorder, Report, UnsupportedOptimizer, Verdict, replay
from crosscheck.trace.reader import open_trace
from tests.crosscheck.recording import (
    applied,
    full_steps,
    gradient_norms,
    make_parameters,
    overflowing_steps,
    parts_of,
    record_as_rank,
    take_steps,
)
from tests.support import JAX, RANKS, TORCH, run_without


@pytest.fixture
def one_process_group() -> Generator[None]:
    store = torch.distributed.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def accelerator() -> Generator[Accelerator]:
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(True)  # pyright: ignore[reportPrivateUsage]
    PartialState._reset_state()  # pyright: ignore[reportPrivateUsage]


def small_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def train(model: Callable[..., Any], optimizer: Any, step: Callable[[], Any] | None = None, *, steps: int = 6) -> None:
    take_step: Callable[[], Any] = optimizer.step if step is None else step
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        take_step()


def matches(trace: Path, *, steps: int = 6) -> Report:
    report = replay(trace)
    assert report.verdict is Verdict.MATCH, report
    assert report.max_eta <= 16, report
    assert report.steps == steps
    return report


@pytest.mark.parametrize("attach_first", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_accelerate(accelerator: Accelerator, fused: bool, attach_first: bool, tmp_path: Path) -> None:
    model = small_network()
    bare = AdamW(model.parameters(), lr=0.01, fused=fused)
    early = Recorder(bare, tmp_path, named_parameters=model.named_parameters()) if attach_first else None
    wrapped = cast(torch.nn.Module, accelerator.prepare_model(model))
    optimizer = accelerator.prepare_optimizer(bare)
    assert optimizer is not bare
    recorder = early or Recorder(optimizer, tmp_path, named_parameters=wrapped.named_parameters())
    train(wrapped, optimizer)
    recorder.close()
    assert matches(tmp_path).optimizer == "torch.optim.adamw.AdamW"
    assert [tensor.name for tensor in parts_of(tmp_path)[0].tensors] == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.usefixtures("one_process_group")
def test_ddp_of_one_process(tmp_path: Path) -> None:
    model = torch.nn.parallel.DistributedDataParallel(small_network())
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    with Recorder(optimizer, tmp_path, named_parameters=model.named_parameters()):
        train(model, optimizer)
    assert matches(tmp_path).tensors == 4


def be_two_ranks(*how: Any) -> None:
    ranks = [RANKS.Process(target=record_as_rank, args=(rank, 2, *how), daemon=True) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0, 0]


def test_ddp_of_two_processes(tmp_path: Path) -> None:
    be_two_ranks(tmp_path)
    report = matches(tmp_path / "trace")
    assert (report.ranks, report.checks["replicas"]) == (2, "match")
    for rank, folder in enumerate((tmp_path / "trace", tmp_path / "trace" / "rank-0001")):
        (header,) = [segment.header for segment in open_trace(folder)]
        assert (header.world_size, header.rank) == (2, rank)  # nobody said so but torch.distributed
    norms = gradient_norms(tmp_path / "trace")
    assert norms == pytest.approx([1.5 * 3**0.5] * 6)  # of the gradient averaged over the ranks, not of rank 0's own
    weights = [torch.load(tmp_path / f"weight-{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(*weights)


def test_ddp_of_which_rank_0_alone_records(tmp_path: Path) -> None:
    be_two_ranks(tmp_path, (0,))
    report = matches(tmp_path / "trace")
    assert (report.ranks, report.checks["replicas"]) == (1, "not recorded")


def test_ddp_that_never_averages_its_gradients(tmp_path: Path) -> None:
    be_two_ranks(tmp_path, (0, 1), False)
    report = replay(tmp_path / "trace")
    assert (report.verdict, report.checks["optimizer"]) == (Verdict.MISMATCH, "match")
    (finding,) = report.findings
    assert (finding.check, finding.step, finding.slot) == ("replicas", 1, "grad")
    assert "Either they were not averaged over the ranks (a no_sync that never ends" in finding.cause


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_model(backend: str, tmp_path: Path) -> None:
    model = small_network()
    compiled = torch.compile(model, backend=backend)
    optimizer = Adam(model.parameters(), lr=0.01)
    with Recorder(optimizer, tmp_path, named_parameters=model.named_parameters()):
        train(compiled, optimizer)
    matches(tmp_path)


COMPILED: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda parameters: SGD(parameters, lr=0.1, momentum=0.9),
    "adam": lambda parameters: Adam(parameters, lr=0.01),
    "adam foreach": lambda parameters: Adam(parameters, lr=0.01, foreach=True),
    "adam fused": lambda parameters: Adam(parameters, lr=0.01, fused=True),
}


@pytest.mark.parametrize("compiled_before", [False, True])
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_step(name: str, compiled_before: bool, tmp_path: Path) -> None:
    """Hooks run outside the graph and see every step. Within it torch's Adam computes its bias corrections in float32."""
    torch.compiler.reset()
    model = small_network()
    optimizer = COMPILED[name](model.parameters())
    step = torch.compile(optimizer.step, backend="eager")
    if compiled_before:
        train(model, optimizer, step, steps=2)
    with Recorder(optimizer, tmp_path):
        train(model, optimizer, step)
    matches(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    train(model, optimizer, step, steps=1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


@pytest.mark.parametrize("sgd", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("skip", [(3,), (2, 3), (6,)])
def test_loss_scaler(skip: tuple[int, ...], fused: bool, sgd: bool, tmp_path: Path) -> None:
    (weight,) = make_parameters((4,))
    optimizer = SGD([weight], lr=0.1, momentum=0.9, fused=fused) if sgd else Adam([weight], lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
    with Recorder(optimizer, tmp_path, scaler=scaler) as recorder:
        overflowing_steps(optimizer, weight, recorder, scaler, steps=6, skip=skip)
    assert matches(tmp_path).skipped == len(skip)
    assert applied(tmp_path) == [step not in skip for step in range(1, 7)]
    steps = [step for part in parts_of(tmp_path) for step in part.steps]
    scales, scale = list[float](), 1024.0
    for step, norm in zip(steps, gradient_norms(tmp_path), strict=True):
        scales.append(scale)
        scale = scale if step.applied else scale / 2
        assert norm == (6.0 if step.applied else float("inf"))  # four times the true gradient, 3
    assert [step.loss_scale for step in steps] == scales
    for segment in open_trace(tmp_path):
        for part in segment.parts():
            gradients = part.array(0, 0, "grad", 6, 4)
            assert (gradients[[step.applied for step in steps]] == 3.0).all()


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_unscaled_and_clipped_before_the_step(fused: bool, tmp_path: Path) -> None:
    (weight,) = make_parameters((4,))
    optimizer = Adam([weight], lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Recorder(optimizer, tmp_path, scaler=scaler):
        for step in range(1, 7):
            optimizer.zero_grad()
            slope = torch.full_like(weight, torch.inf if step == 3 and fused else 3.0)
            scaler.scale((weight * slope).sum()).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_([weight], 1.0)
            scaler.step(optimizer)
            scaler.update()
    report = matches(tmp_path)
    assert report.skipped == (1 if fused else 0)
    found = zip(gradient_norms(tmp_path), applied(tmp_path), strict=True)
    norms = [norm for norm, was_applied in found if was_applied]
    assert norms == pytest.approx([1.0] * len(norms), rel=1e-5)  # divided by the scale once, not twice


def test_scaler_switched_off(tmp_path: Path) -> None:
    (weight,) = make_parameters((4,))
    optimizer = SGD([weight], lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with Recorder(optimizer, tmp_path, scaler=scaler) as recorder:
        overflowing_steps(optimizer, weight, recorder, scaler, steps=6, skip=())
    matches(tmp_path)
    assert all(step.loss_scale is None for part in parts_of(tmp_path) for step in part.steps)
    assert full_steps(tmp_path) == [1, 2, 3]


class FP16_UnfusedOptimizer:  # noqa: N801 (the name is DeepSpeed's)
    """Works like DeepSpeed's class without ZeRO: the optimizer inside of it steps whole master weights in float32."""

    def __init__(self, optimizer: Optimizer, scale: float) -> None:
        self.optimizer, self.scale = optimizer, scale
        self.halves: list[list[Parameter]] = [group["params"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["params"] = [Parameter(half.detach().float()) for half in group["params"]]

    @torch.no_grad()
    def step(self) -> None:
        pairs = [
            pair
            for halves, group in zip(self.halves, self.optimizer.param_groups, strict=True)
            for pair in zip(halves, group["params"], strict=True)
        ]
        if all(half.grad is not None and half.grad.isfinite().all() for half, _ in pairs):
            for half, master in pairs:
                assert half.grad is not None
                master.grad = half.grad.float() / self.scale
            self.optimizer.step()
            for half, master in pairs:
                half.copy_(master)
        for half, _ in pairs:
            half.grad = None


FP16_UnfusedOptimizer.__module__ = "deepspeed.runtime.fp16.unfused_optimizer"


@pytest.mark.parametrize("by_accelerate", [False, True])
def test_deepspeed_without_zero(by_accelerate: bool, tmp_path: Path) -> None:
    """Its steps with an overflow do not come to the optimizer, so they are not on record."""
    model = small_network().bfloat16()
    optimizer = FP16_UnfusedOptimizer(AdamW(model.parameters(), lr=0.01), scale=64.0)
    wrapped: Any = DeepSpeedOptimizerWrapper(cast(Any, optimizer)) if by_accelerate else optimizer
    with Recorder(wrapped, tmp_path):
        for step in range(8):
            loss = model(torch.randn(8, 6, dtype=torch.bfloat16)).square().mean() * 64.0
            (loss * torch.inf if step in (0, 4) else loss).backward()
            optimizer.step()
    matches(tmp_path)
    assert {tensor.dtype for tensor in parts_of(tmp_path)[0].tensors} == {"float32"}


class DeepSpeedZeroOptimizer:
    """Looks like DeepSpeed's class: it is no torch optimizer, but holds one whose parameters are flat partitions."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer


DeepSpeedZeroOptimizer.__module__ = "deepspeed.runtime.zero.stage_1_and_2"


class FusedAdam(Adam):
    """Looks like DeepSpeed's class, which inherits from a torch optimizer."""


FusedAdam.__module__ = "deepspeed.ops.adam.fused_adam"


class DeepSpeedOptimizerWrapper:
    """Looks like Accelerate's class."""

    def __init__(self, optimizer: DeepSpeedZeroOptimizer) -> None:
        self.optimizer = optimizer


DeepSpeedOptimizerWrapper.__module__ = "accelerate.utils.deepspeed"


def dtensor() -> Optimizer:
    mesh = init_device_mesh("cpu", (1,))
    return SGD([("weight", Parameter(distribute_tensor(torch.randn(4, 4), mesh, [Shard(0)])))], lr=0.1)


def fully_sharded() -> Optimizer:
    from torch.distributed.fsdp import fully_shard

    model = small_network()
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    return Adam(model.named_parameters())


def flat_parameters(*, use_orig_params: bool) -> Optimizer:
    from torch.distributed.fsdp import FullyShardedDataParallel

    with pytest.warns(UserWarning, match="NO_SHARD"):  # a single rank has no other to shard with
        model = FullyShardedDataParallel(
            small_network(), use_orig_params=use_orig_params, device_id=torch.device("cpu")
        )
    return Adam(model.named_parameters())


@pytest.mark.usefixtures("one_process_group")
@pytest.mark.parametrize(
    ("make", "named"),
    [
        (dtensor, "weight is a DTensor"),
        (fully_sharded, "0.weight is a DTensor"),
        (lambda: flat_parameters(use_orig_params=False), "FSDP"),
        (lambda: flat_parameters(use_orig_params=True), "FSDP"),
        (lambda: ZeroRedundancyOptimizer(small_network().parameters(), Adam, lr=0.01), "ZeroRedundancyOptimizer"),
        (lambda: DeepSpeedZeroOptimizer(Adam(small_network().parameters())), "DeepSpeedZeroOptimizer shards its state"),
        (
            lambda: DeepSpeedOptimizerWrapper(DeepSpeedZeroOptimizer(Adam(small_network().parameters()))),
            "DeepSpeedZeroOptimizer shards its state",
        ),
        (lambda: FusedAdam(small_network().parameters()), "FusedAdam steps with kernels of DeepSpeed"),
    ],
    ids=["dtensor", "fsdp2", "fsdp1 flat", "fsdp1 original", "zero", "deepspeed", "accelerate deepspeed", "fused adam"],
)
@pytest.mark.parametrize("rule", ["auto", "adam"])
def test_sharded_is_refused_by_name(make: Callable[[], Any], named: str, rule: str, tmp_path: Path) -> None:
    optimizer = make()
    with pytest.raises(UnsupportedOptimizer, match=named):
        Recorder(optimizer, tmp_path / "trace", rule=rule)
    assert not (tmp_path / "trace").exists()


class LookAhead(torch.optim.Optimizer):
    """A wrapper without torch's own __init__, as those of timm and pytorch_optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.base_optimizer: Any = optimizer
        self.param_groups, self.state, self.defaults = optimizer.param_groups, optimizer.state, optimizer.defaults

    def step(self, closure: Any = None) -> Any:
        return self.base_optimizer.step(closure)


def test_a_wrapper_without_hooks_is_refused_by_name(tmp_path: Path) -> None:
    parameters = make_parameters((4,))
    wrapper = LookAhead(SGD(parameters, lr=0.1))
    with pytest.raises(
        UnsupportedOptimizer, match=r"LookAhead has none of the hooks .* which is its attribute base_optimizer"
    ):
        Recorder(wrapper, tmp_path, rule="sgd")
    with Recorder(wrapper.base_optimizer, tmp_path):
        take_steps(wrapper, parameters, range(1, 4))
    matches(tmp_path, steps=3)


class Closed(SGD):
    """An optimizer that takes hooks before and after a step, and no others."""

    def register_load_state_dict_post_hook(self, hook: Any, prepend: bool = False) -> Any:
        raise NotImplementedError


def test_what_cannot_be_attached_to_leaves_nothing_behind(tmp_path: Path) -> None:
    parameters = make_parameters((4,))
    closed = Closed(parameters, lr=0.1)
    with pytest.raises(NotImplementedError):
        Recorder(closed, tmp_path)
    take_steps(closed, parameters, (1, 2))
    optimizer = SGD(parameters, lr=0.1)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, parameters, range(1, 4))
    matches(tmp_path, steps=3)


def test_recording_needs_no_jax(tmp_path: Path) -> None:
    script = f"""
import torch
from crosscheck.recorder import Recorder
weight = torch.nn.Parameter(torch.ones(300))
optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
with Recorder(optimizer, {str(tmp_path)!r}) as recorder:
    for step in range(1, 5):
        weight.grad = torch.full_like(weight, 1 / step)
        optimizer.step()
print(recorder.step)
"""
    result = run_without(JAX, script)
    assert (result.returncode, result.stdout) == (0, "4\n"), result.stderr
    matches(tmp_path, steps=4)


def test_replaying_needs_no_torch(tmp_path: Path) -> None:
    parameters = make_parameters((300,), dtype=torch.bfloat16)  # NumPy alone does not know this format
    optimizer = SGD(parameters, lr=0.1, momentum=0.9)
    with Recorder(optimizer, tmp_path):
        take_steps(optimizer, parameters, range(1, 5))
    script = f"""
from crosscheck.replayer import replay
print(replay({str(tmp_path)!r}))
"""
    result = run_without(TORCH, script)
    assert (result.returncode, result.stdout) == (0, f"{matches(tmp_path, steps=4)}\n"), result.stderr
