"""One wish, from the recipe or the launcher, and honest about what this device can do."""

from itertools import product

import pytest
import torch
from torch import nn

from distrib.errors import BadInput
from distrib.optim.precision import Mode, Precision, PrecisionConfig

CPU = torch.device("cpu")

FAST = {
    "bf16": ("avx512_bf16", "amx_bf16", "sve_bf16"),
    "fp16": ("avx512_fp16", "amx_fp16"),
}
HALF: tuple[Mode, ...] = ("bf16", "fp16")


@pytest.fixture(autouse=True)
def _plain_cpu(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    """Let this CPU have none of the instructions, whatever it is."""
    has(monkeypatch)


def has(monkeypatch: pytest.MonkeyPatch, *instructions: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(instructions, True))


def choose(mode: str, asked: str | None = None, *, force: bool = True) -> Mode:
    """The mode on a CPU; `asked` is what accelerate launch was told (none: started without it)."""
    environment = {} if asked is None else {"ACCELERATE_MIXED_PRECISION": asked}
    return Precision(PrecisionConfig.model_validate({"mode": mode, "force": force}), CPU, environment).mode


@pytest.mark.parametrize("asked", [None, "no", "NO"])
@pytest.mark.parametrize(("mode", "expected"), [("auto", "no"), ("no", "no"), ("bf16", "bf16"), ("fp16", "fp16")])
def test_without_a_launchers_wish_the_recipe_decides(mode: str, asked: str | None, expected: str) -> None:
    assert choose(mode, asked) == expected


@pytest.mark.parametrize("asked", ["bf16", "fp16", "BF16"])
def test_launchers_wish_is_honoured(asked: str) -> None:
    assert choose("auto", asked) == asked.lower()


@pytest.mark.parametrize("mode", HALF)
def test_two_equal_wishes_are_one(mode: str) -> None:
    assert choose(mode, mode) == mode


@pytest.mark.parametrize(
    ("mode", "asked"),
    [(mode, asked) for mode, asked in product(("no", "tf32", "bf16", "fp16"), HALF) if mode != asked],
)
def test_two_different_wishes_are_refused(mode: str, asked: str) -> None:
    with pytest.raises(BadInput) as caught:
        choose(mode, asked)
    for word in (f"precision.mode = {mode}", f"--mixed_precision {asked}", "drop one", "equal"):
        assert word in str(caught.value)


@pytest.mark.parametrize("mode", ["auto", "no", "bf16"])
def test_fp8_is_refused(mode: str) -> None:
    with pytest.raises(BadInput) as caught:
        choose(mode, "fp8")
    for word in ("fp8", "no", "bf16", "fp16"):
        assert word in str(caught.value)


@pytest.mark.parametrize("force", [True, False])
def test_tf32_on_a_cpu_is_refused(force: bool) -> None:
    with pytest.raises(BadInput) as caught:
        choose("tf32", force=force)
    for word in ("precision.mode = tf32", "Ampere", "cpu", "use no"):
        assert word in str(caught.value)


@pytest.mark.parametrize("mode", HALF)
@pytest.mark.parametrize("by_launcher", [False, True], ids=["recipe", "launcher"])
def test_emulated_format_needs_force(mode: str, by_launcher: bool) -> None:
    with pytest.raises(BadInput) as caught:
        choose("auto", mode, force=False) if by_launcher else choose(mode, force=False)
    for word in (f"precision.mode = {mode}", "emulated", "15 times", "use no", "--precision.force true"):
        assert word in str(caught.value)


@pytest.mark.parametrize(("mode", "instructions"), [(mode, one) for mode in HALF for one in FAST[mode]])
def test_a_format_that_the_cpu_has_needs_no_force(
    mode: str, instructions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, instructions)
    assert choose(mode, force=False) == mode


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [
        (("avx512_bf16",), "bf16"),
        (("avx512_bf16", "amx_bf16", "avx512_fp16"), "bf16"),
        (("avx512_fp16",), "no"),
        (("sve_bf16",), "no"),  # was not measured
        ((), "no"),
    ],
)
def test_auto_is_bf16_where_that_pays(
    instructions: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, *instructions)
    assert choose("auto", force=False) == expected
    assert choose("no", force=False) == "no"


@pytest.mark.parametrize("variable", ["ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"])
@pytest.mark.parametrize(
    ("limit", "left"),
    [("AVX2", False), ("avx512_core_vnni", False), ("AVX512_CORE_BF16", True), ("AVX512_CORE_AMX", True), ("", True)],
)
def test_what_onednn_may_not_use_does_not_count(
    variable: str, limit: str, left: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch tells what the processor has, whatever oneDNN was told to do without."""
    has(monkeypatch, "avx512_bf16", "amx_bf16")
    config = PrecisionConfig.model_validate({"mode": "auto"})
    assert Precision(config, CPU, {variable: limit}).mode == ("bf16" if left else "no")
    if not left:
        with pytest.raises(BadInput, match="emulated"):
            Precision(PrecisionConfig.model_validate({"mode": "bf16"}), CPU, {variable: limit})


@pytest.mark.parametrize("mode", ["auto", "no"])
def test_float32_needs_no_force(mode: str) -> None:
    assert choose(mode, force=False) == "no"


@pytest.mark.parametrize("mode", ["auto", "no", "bf16", "fp16"])
def test_only_fp16_scales_the_loss(mode: str) -> None:
    config = PrecisionConfig.model_validate({"mode": mode, "force": True, "init_scale": 512.0, "growth_interval": 7})
    scaler = Precision(config, CPU, {}).scaler
    assert scaler.is_enabled() is (mode == "fp16")
    scaled = scaler.scale(torch.tensor(2.0)).item()
    assert scaled == (1024.0 if mode == "fp16" else 2.0)
    assert scaler.state_dict().get("growth_interval", 7) == 7


@pytest.mark.parametrize(
    ("mode", "dtype"),
    [("auto", torch.float32), ("no", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
@pytest.mark.parametrize("layer", ["conv", "linear"])
def test_autocast_computes_in_the_format(mode: str, dtype: torch.dtype, layer: str) -> None:
    precision = Precision(PrecisionConfig.model_validate({"mode": mode, "force": True}), CPU, {})
    net, inputs = (
        (nn.Conv2d(2, 2, 1), torch.ones(1, 2, 2, 2)) if layer == "conv" else (nn.Linear(2, 2), torch.ones(1, 2))
    )
    for _ in range(2):  # each step asks for a fresh context
        with precision.autocast():
            assert net(inputs).dtype == dtype
    assert net(inputs).dtype == torch.float32
    assert {p.dtype for p in net.parameters()} == {torch.float32}
