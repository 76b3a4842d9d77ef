"""What the machine is, and the two ceilings of all that is measured on it."""

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch

from tests.gpu.part import Case, Cases, Setting, Skipped
from tests.gpu.report import Column, Figures
from tests.gpu.timing import copy_bandwidth, seconds_of
from tests.support import processor


def _cases(setting: Setting) -> list[Case]:
    def of_gpu(read: Callable[[], Figures]) -> Callable[[], Figures]:
        def measure() -> Figures:
            if setting.device != "cuda":
                raise Skipped("there is no GPU")
            return read()

        return measure

    return [
        Case("GPU", of_gpu(_gpu)),
        Case("driver", of_gpu(_driver)),
        Case("large copy", lambda: {"rate": copy_bandwidth(setting.device) / 1e9, "value": "GB/s, read plus written"}),
        Case("bf16 matrix product", lambda: _matrix(setting, torch.bfloat16)),
        Case("float32 matrix product", lambda: _matrix(setting, torch.float32)),
        Case("small kernels in a row", lambda: _small_kernels(setting)),
        Case("host waits for the device", lambda: _wait(setting)),
        Case("libraries", lambda: {"value": _libraries()}),
        Case("host", lambda: {"value": _host()}),
    ]


def _gpu() -> Figures:
    it: Any = torch.cuda.get_device_properties(0)  # pyright: ignore[reportUnknownVariableType]
    free, _ = torch.cuda.mem_get_info()
    return {
        "value": f"{it.name}, {it.multi_processor_count} multiprocessors, {it.total_memory / 2**30:.1f} GiB "
        f"({free / 2**30:.1f} free), compute capability {it.major}.{it.minor}"
    }


def _driver() -> Figures:
    """The driver's version, which torch does not tell, from nvidia-smi where there is one."""
    tool = shutil.which("nvidia-smi")
    said = "unknown: there is no nvidia-smi"
    if tool is not None:
        asked = [tool, "--query-gpu=driver_version,clocks.sm,clocks.mem,power.limit", "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=20).stdout.strip()
    return {"value": f"{said}; CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"}


def _matrix(setting: Setting, dtype: torch.dtype) -> Figures:
    size = 128 if setting.small else 8192
    left, right = (torch.randn(size, size, device=setting.device, dtype=dtype) for _ in range(2))
    torch.set_float32_matmul_precision("highest")
    seconds = seconds_of(lambda: left @ right, setting.device, repeats=10)
    return {"rate": 2 * size**3 / seconds / 1e12, "value": f"TFLOP/s, {size} x {size}, random numbers"}


def _small_kernels(setting: Setting) -> Figures:
    number = torch.zeros(1, device=setting.device)

    def hundred() -> None:
        for _ in range(100):
            number.add_(1.0)

    return {"rate": seconds_of(hundred, setting.device) / 100 * 1e6, "value": "us each, launched by Python"}


def _wait(setting: Setting) -> Figures:
    number = torch.zeros(1, device=setting.device)
    return {"rate": seconds_of(number.item, setting.device) * 1e6, "value": "us to read one number"}


def _libraries() -> str:
    names = ("torch", "triton", "jax", "jaxlib", "optax", "accelerate", "numpy", "safetensors", "pydantic")
    found = [f"{name} {_version(name)}" for name in names]
    return f"Python {platform.python_version()}, {', '.join(found)}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _host() -> str:
    release = platform.release().partition("-")[0]
    return f"{processor()}, {os.cpu_count()} cores, {platform.system()} {release}"


PART = Cases(
    title="what the machine is, and its two ceilings",
    columns=(Column(key="rate", title="measured", form=",.1f"), Column(key="value", title="what it is")),
    cases=_cases,
)
