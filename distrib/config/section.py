"""Defines what every configuration section has in common."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(ge=1, le=10**9)]
"""A count. No run needs more, and what is computed from it fits into the integers of C."""
PositiveNumber = Annotated[float, Field(gt=0, le=1e30)]
Number = Annotated[float, Field(ge=0, le=1e30)]
"""Numbers that float32 can hold, in which the kernels compute."""


class Section(BaseModel):
    """A frozen table of the recipe. The docstring under each field is its line in `--help`.

    Strict: `epochs = true` or `epochs = "6"` is an error, not a guess; unknown keys are refused.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )
