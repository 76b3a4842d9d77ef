"""Names errors of torch itself that a record can show, so that nobody looks for them in code of their own."""

import re

from crosscheck.trace.format import Header, TensorInfo

_VECTOR = 8  # elements at least that a kernel takes at once, in a format of 16 bits


def known_bug(header: Header, tensor: TensorInfo) -> str:
    """Return in a sentence what torch is known to make of such a tensor; nothing where no error is known.

    Source: https://github.com/pytorch/pytorch/issues/191763, there seen with torch 2.12.1 and 2.13.0, by us with 2.11.0.
    """
    version = re.match(r"(\d+)\.(\d+)", header.versions.get("torch", ""))
    fused = header.optimizer == "torch.optim.sgd.SGD" and tensor.implementation == "fused" and tensor.device == "cpu"
    half = tensor.dtype in ("bfloat16", "float16") and tensor.numel >= _VECTOR
    if fused and half and version and (int(version[1]), int(version[2])) < (2, 14):
        return (
            "before torch 2.14, fused SGD on a CPU steps only the last few elements of a tensor of bfloat16 or float16, and "
            "writes wrong momentum into the others (pytorch issue 191763): leave fused=True out, or take a newer torch"
        )
    return ""
