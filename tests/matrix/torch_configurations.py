"""Records and replays every configuration with which torch tests its own optimizers:
`python -m tests.matrix.torch_configurations`.

What has a rule must match, in every real format and on every device there is; what has none must be refused by its name.
This is a program of its own, because torch's test helpers change settings of the whole process when they are imported.
"""

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import TestCase

import torch
from torch import Tensor

from crosscheck import Recorder, Report, UnsupportedOptimizer, Verdict, replay
from crosscheck.recorder.optimizer.rule import CLAIMABLE
from crosscheck.recorder.optimizer.tensors import DTYPES
from crosscheck.tolerance import WARN

STEPS = 20
NO_RULE, RULE = "refused, as it should be", "matches"


def main() -> int:
    """Try all configurations, print what is wrong and a summary, and return the exit code."""
    torch.set_num_threads(1)
    came_to, wrong, worst = Counter[str](), list[str](), 0.0
    for info in _torch_s_database():
        kind: type[torch.optim.Optimizer] = info.optim_cls
        if kind not in {rule.torch_class for rule in CLAIMABLE.values()}:
            expected, found = f"no rule for {kind.__name__}", _refusal(kind, info)
            came_to[NO_RULE] += 1
            if expected not in found:
                wrong.append(f"{kind.__name__}: it should be refused as {expected!r}, but: {found}")
            continue
        for device, dtype, options, about in _configurations(kind, info):
            report = _replayed(kind, options, device, dtype)
            came_to[RULE] += 1
            worst = max(worst, report.max_eta)
            if report.verdict is not Verdict.MATCH or report.max_eta > WARN:
                wrong.append(f"{about}\n{report}")
    print("\n".join(wrong))
    print(
        f"{came_to[RULE]} configurations with a rule, {came_to[NO_RULE]} optimizers without; {len(wrong)} wrong; worst eta "
        f"{worst:.2f}"
    )
    return 1 if wrong else 0


def _torch_s_database() -> list[Any]:
    """Return the list that torch's own tests of its optimizers go through."""
    if find_spec("expecttest") is None:  # torch's helpers import it for a class of tests that is not used here
        sys.modules["expecttest"] = SimpleNamespace(TestCase=TestCase)  # pyright: ignore[reportArgumentType]
    from torch.testing._internal.common_optimizers import optim_db

    return optim_db  # pyright: ignore[reportUnknownVariableType]


def _configurations(kind: type, info: Any) -> Iterator[tuple[str, torch.dtype, dict[str, Any], str]]:
    """Yield the device, the format and the options of each configuration, with words for it."""
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        implementations = [flag for flag in info.supported_impls if flag != "fused" or device in info.supports_fused_on]
        for dtype in DTYPES:
            for given in info.optim_inputs_func(device, dtype):
                for flag in ("", *implementations):
                    options = {**given.kwargs, **{name: name == flag for name in implementations}}
                    if flag == "foreach" and isinstance(options.get("lr"), Tensor) and not options.get("capturable"):
                        continue  # torch refuses it
                    yield device, dtype, options, f"{kind.__name__} {given.desc} {flag or 'single'} {dtype} {device}"


def _replayed(kind: Any, options: dict[str, Any], device: str, dtype: torch.dtype) -> Report:
    """Train what torch's tests train, a layer of one output size whose squared result falls, and replay the record."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)

    # With `differentiable` torch changes parameters in place only if they ask for no gradient of their own.
    weight, bias, sample = normal(10, 5), normal(10), normal(5)
    optimizer = kind([weight, bias], **deepcopy(options))
    with tempfile.TemporaryDirectory(prefix="configuration-") as folder:
        trace = Path(folder) / "trace"
        with Recorder(optimizer, trace):
            for _ in range(STEPS):
                slope = 2 * (weight @ sample + bias)
                weight.grad, bias.grad = torch.outer(slope, sample), slope
                optimizer.step()
        return replay(trace)


def _refusal(kind: Any, info: Any) -> str:
    """Return with which words the recorder refuses an optimizer without a rule."""
    parameter = torch.nn.Parameter(torch.ones(3, 2))
    options = info.optim_inputs_func("cpu")[0].kwargs
    try:
        with tempfile.TemporaryDirectory(prefix="configuration-") as folder:
            Recorder(kind([parameter], **options), Path(folder) / "trace").close()
    except UnsupportedOptimizer as error:
        return str(error)
    return "it was recorded"


if __name__ == "__main__":
    sys.exit(main())
