"""Limits what recording a step may cost, by numbers of elements and bytes that do not depend on the size of the model."""

from dataclasses import dataclass, replace
from typing import Literal

Size = Literal["light", "default", "full"]
_DEFAULT_KIB = 100  # what the default writes for a step, at most


@dataclass(frozen=True, slots=True)
class Budget:
    """How much of a step is recorded. Small tensors are recorded whole; of large ones it is a sample, which moves on."""

    columns: int
    """Elements that are recorded at every step."""
    tensors: int
    """Tensors that these are of; of a model with more, others take their turn with each part of the trace."""
    wide_bytes: int
    """Bytes recorded of a step that is recorded in full: whole tensors, or blocks of those that are too large."""
    digest_bytes: int
    """Bytes read for the digests of one snapshot, of elements that have no column; many bytes are read at some steps only."""
    grad_elements: int
    """Elements of gradients whose norm is taken at every step; of a larger model it is taken at some steps."""
    whole: bool = False
    """Every element of every step is recorded."""

    def thinned(self, halvings: int) -> "Budget":
        """Return the budget with half as many columns, and bytes of full steps, so many times over."""
        columns = max(self.columns >> halvings, 16)
        return replace(
            self,
            columns=columns,
            tensors=min(self.tensors, columns // 2),
            wide_bytes=max(self.wide_bytes >> halvings, 2**14),
        )


_DEFAULT = Budget(columns=2048, tensors=64, wide_bytes=2**22, digest_bytes=3 * 2**18, grad_elements=2**20)
_LIGHT = Budget(columns=512, tensors=16, wide_bytes=2**20, digest_bytes=2**17, grad_elements=2**17)


def budget_of(size: Size | int) -> Budget:
    """Return the budget of a name, or of a number of bytes to be written for a step. Raises ValueError."""
    if size == "default":
        return _DEFAULT
    if size == "light":
        return _LIGHT
    if size == "full":
        return Budget(
            columns=_DEFAULT.columns,
            tensors=2**62,
            wide_bytes=2**62,
            digest_bytes=2**62,
            grad_elements=2**62,
            whole=True,
        )
    if isinstance(size, str | bool) or size < 1024:
        raise ValueError(
            f"budget={size!r}: accepted are 'light', 'default', 'full', and the bytes that a step may take, from 1,024"
        )
    share = size / (_DEFAULT_KIB * 1024)
    return Budget(
        columns=max(int(_DEFAULT.columns * share), 16),
        tensors=max(int(_DEFAULT.tensors * share), 2),
        wide_bytes=max(int(_DEFAULT.wide_bytes * share), 2**14),
        digest_bytes=max(int(_DEFAULT.digest_bytes * share), 2**14),
        grad_elements=_DEFAULT.grad_elements,
    )
