"""Computes the gradients that the optimizer consumes, and their norm."""

from collections.abc import Sequence

import torch
from torch import Tensor

from crosscheck.recorder.samples.snapshot import Values


def consumed(gradients: Values, scale: Tensor | None) -> Values:
    """Return gradients as a fused kernel consumes them: divided by the loss scale, in float32 if they are halves."""
    if scale is None:
        return gradients
    return Values([(numbers, _unscaled(vector, scale)) for numbers, vector in gradients.chunks])


def _unscaled(vector: Tensor, scale: Tensor) -> Tensor:
    wide = vector.float() if vector.dtype in (torch.float16, torch.bfloat16) else vector
    return wide / scale.to(wide.device)


def norm(gradients: Sequence[Tensor], scale: Tensor | None) -> Tensor:
    """Return the Euclidean norm over all gradients, accumulated in float64, on their device (nothing waits for it)."""
    if not gradients:
        return torch.zeros((), dtype=torch.float64, device="cpu")
    device = gradients[0].device
    # One operation for all, which torch.nn.utils.get_total_norm takes as well.
    norms = torch._foreach_norm(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        [gradient.detach() for gradient in gradients], 2, torch.float64
    )
    parts = [part.to(device) for part in norms]
    total = torch.stack(parts).square().sum().sqrt()
    return total if scale is None else total / scale.to(device)
