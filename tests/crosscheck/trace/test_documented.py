"""docs/trace.md describes the whole format: a key that it does not name is an error to a reader."""

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from crosscheck.trace import format as trace_format
from crosscheck.trace import reserved_options
from crosscheck.trace.format import ROUNDOFF_OF
from crosscheck.trace.schedule_claims import SCHEDULES
from tests.support import ROOT

PAGE = (ROOT / "docs" / "trace.md").read_text(encoding="utf-8")


def names() -> Iterator[str]:
    """Yield every key of every object, every schedule with its keys, and every option that the recorder adds."""
    for kind in vars(trace_format).values():
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from kind.model_fields
    for schedule, keys in SCHEDULES.items():
        yield schedule
        yield from keys
    yield from (value for name, value in vars(reserved_options).items() if name.isupper())
    yield from (hyperparameter + ROUNDOFF_OF for hyperparameter in ("lr", "betas"))


@pytest.mark.parametrize("name", sorted(set(names())))
def test_the_page_names_it(name: str) -> None:
    assert f"`{name}`" in PAGE
