"""Builds torch's CUDA kernel of fused Adam for the CPU and puts it in the place of torch's CPU kernel.

Only the arithmetic of an element comes from the kernel. The optimizer around it, its state and steps, and the loss scaler
are torch's. The source of the kernel is included from torch's own package; `stand_ins` has what it needs of CUDA.
"""

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

HERE = Path(__file__).parent
HEADER = Path(torch.__file__).parent / "include" / "ATen" / "native" / "cuda" / "fused_adam_utils.cuh"
BUILDS_WITH = ("2.11", "2.13", "2.14")
"""Versions of torch whose header is known to compile here. With another version a failure to compile skips the tests."""

Arguments = dict[str, Any]
"""The arguments of the kernel for one tensor, by name."""
Kernel = Callable[..., None]
Alteration = Callable[[Arguments], Arguments]


def build(folder: Path, *, contract: bool) -> Kernel:
    """Compile the kernel into `folder` and return it. Skips the test where it cannot be compiled.

    With `contract` the compiler may make a product and a sum one operation.
    """
    cpp_extension: Any = pytest.importorskip("torch.utils.cpp_extension", reason="torch builds with setuptools")
    if shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("no C++ compiler")
    if not cpp_extension.is_ninja_available():
        pytest.skip("no ninja")
    if not HEADER.exists() or "struct FusedAdamMathFunctor" not in HEADER.read_text():
        pytest.skip(f"torch {torch.__version__} has no FusedAdamMathFunctor in {HEADER.name}")
    if contract and torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        pytest.skip("the CPU has no fused multiply-add that is known here")
    name = f"cuda_host_{'contracted' if contract else 'plain'}"
    contraction = ["-ffp-contract=fast", "-mfma"] if contract else ["-ffp-contract=off"]
    try:
        cpp_extension.load(
            name,
            [str(HERE / "kernel.cpp")],
            extra_cflags=["-O2", f"-DNAME={name}", *contraction],
            extra_include_paths=[str(HERE / "stand_ins")],
            build_directory=str(folder),
            with_cuda=False,
            is_python_module=False,
        )
    except RuntimeError as error:
        if torch.__version__.startswith(BUILDS_WITH):
            raise
        pytest.skip(f"the header of torch {torch.__version__} does not build: {error}")
    return getattr(torch.ops, name).fused_adam


def unaltered(arguments: Arguments) -> Arguments:
    return arguments


def put_in_place(patch: pytest.MonkeyPatch, kernel: Kernel, alter: Alteration = unaltered) -> None:
    """From now on let fused `torch.optim.Adam` and `AdamW` run this kernel. `alter` plants errors in its arguments."""
    patch.setattr(torch, "_fused_adam_", partial(_launch, kernel, alter, False))
    patch.setattr(torch, "_fused_adamw_", partial(_launch, kernel, alter, True))


def _launch(
    kernel: Kernel,
    alter: Alteration,
    decoupled: bool,
    *lists: list[Tensor],
    amsgrad: bool,
    **numbers: Any,
) -> None:
    """Stand in for torch._fused_adam_.

    `lists` are the parameters, the gradients, the slots (the last one is used by AMSGrad only) and the step counts.
    """
    *slots, steps = lists
    for *tensors, step in zip(*(slots if amsgrad else slots[:4]), steps, strict=True):
        kernel(**alter({"tensors": tensors, "step": step, "decoupled": decoupled, **numbers}))
