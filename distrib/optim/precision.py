"""Chooses the number format of a run, with autocast and loss scaling, in the same way on CPU and GPU.

Accelerate is told `no`: it makes no loss scaler on a CPU and does not notice the steps that a fused
optimizer skips. The wish given to `accelerate launch --mixed_precision` is honoured here instead.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch

from distrib.config.section import Positive, PositiveNumber, Section
from distrib.errors import BadInput

Mode = Literal["no", "tf32", "bf16", "fp16"]

_BF16_ON_X86 = ("avx512_bf16", "amx_bf16")
_INSTRUCTIONS = {"bf16": (*_BF16_ON_X86, "sve_bf16"), "fp16": ("avx512_fp16", "amx_fp16")}
"""The instructions of a CPU, as torch.cpu.get_capabilities calls them, that compute in a format; without them it is emulated."""
_WITHOUT_HALVES = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of ONEDNN_MAX_CPU_ISA that leave oneDNN none of them ("CPU Dispatcher Control" in oneDNN's developer guide)."""


class PrecisionConfig(Section):
    """The number format of forward and backward; parameters and optimizer state stay float32."""

    mode: Literal["auto", "no", "tf32", "bf16", "fp16"] = "auto"
    """auto: what accelerate launch was asked for, else bf16 on GPUs and x86 CPUs that have it, else no. fp16 scales the loss."""
    force: bool = False
    """Take bf16 or fp16 on a CPU that can only emulate it (about 15 times slower)."""
    init_scale: PositiveNumber = 65536.0
    """fp16: first loss scale (torch.amp.GradScaler)."""
    growth_interval: Positive = 2000
    """fp16: applied updates without overflow before the loss scale doubles."""


class Precision:
    """The chosen mode on one kind of device."""

    def __init__(
        self, config: PrecisionConfig, device: torch.device, environment: Mapping[str, str] = os.environ
    ) -> None:
        """Raises BadInput for two different wishes, or for a format that this device lacks."""
        self.mode: Mode = _choose(config, device, environment)
        self.device_type = device.type
        self.scaler = torch.amp.GradScaler(
            device.type,
            init_scale=config.init_scale,
            growth_interval=config.growth_interval,
            enabled=self.mode == "fp16",
        )
        if device.type == "cuda":
            # Stated both ways: cuDNN's own default is tf32 even when nobody asked for it.
            tensor_cores = self.mode != "no"
            torch.set_float32_matmul_precision("high" if tensor_cores else "highest")
            torch.backends.cudnn.allow_tf32 = tensor_cores

    @property
    def compute(self) -> Literal["float32", "bfloat16", "float16"]:
        """The format of matrix products."""
        return "bfloat16" if self.mode == "bf16" else "float16" if self.mode == "fp16" else "float32"

    def autocast(self, *, cache_enabled: bool = True) -> AbstractContextManager[object]:
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.mode)
        return torch.autocast(
            self.device_type, dtype=dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=cache_enabled
        )


def _choose(config: PrecisionConfig, device: torch.device, environment: Mapping[str, str]) -> Mode:
    # The launcher always sets the variable: "no" means that nothing was asked for.
    asked = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if asked == "fp8":
        raise BadInput(
            "accelerate launch --mixed_precision fp8: this trainer has no, bf16 and fp16; choose one of them"
        )
    if config.mode == "auto":
        mode: Mode = asked if asked in ("bf16", "fp16") else "bf16" if _pays(device, environment) else "no"
    else:
        mode = config.mode
        if asked not in ("no", mode):
            raise BadInput(
                f"precision.mode = {mode}, but accelerate launch was asked for --mixed_precision {asked}: "
                "drop one of the two wishes, or make them equal"
            )
    _check(mode, config, device, environment)
    return mode


def _pays(device: torch.device, environment: Mapping[str, str]) -> bool:
    """Return whether a step in bf16 takes less time than one in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return _cpu_has(_BF16_ON_X86, environment)  # sve_bf16 was not measured


def _check(mode: Mode, config: PrecisionConfig, device: torch.device, environment: Mapping[str, str]) -> None:
    if mode == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)):
        raise BadInput(
            f"precision.mode = tf32 needs an NVIDIA GPU of the Ampere generation or later, not {device}: use no"
        )
    instructions = _INSTRUCTIONS.get(mode)
    if device.type == "cpu" and not config.force and instructions and not _cpu_has(instructions, environment):
        raise BadInput(
            f"precision.mode = {mode} on this CPU is emulated, about 15 times slower than float32: "
            "use no, or say --precision.force true"
        )


def _cpu_has(instructions: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Return whether this CPU has one of these, and oneDNN, which computes with them, was not told to do without."""
    limit = environment.get("ONEDNN_MAX_CPU_ISA") or environment.get("DNNL_MAX_CPU_ISA") or ""
    if limit.upper() in _WITHOUT_HALVES:
        return False
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
    return any(capabilities.get(name, False) for name in instructions)
