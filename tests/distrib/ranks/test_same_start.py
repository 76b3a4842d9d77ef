"""Ranks that were started differently are told so: the key, and both values."""

from collections.abc import Mapping
from typing import Any, cast

import pytest
from accelerate import Accelerator

from distrib.errors import BadInput
from distrib.ranks import same_start
from distrib.ranks.same_start import require_same

ACCELERATOR = cast(Accelerator, None)  # the tests say what the ranks have, so nothing asks it


def held(monkeypatch: pytest.MonkeyPatch, *by_rank: Mapping[str, Any]) -> None:
    """Let the ranks have these facts."""

    def gathered(_accelerator: Accelerator, _mine: Any) -> list[Any]:
        return list(by_rank)

    monkeypatch.setattr(same_start, "all_gather_json", gathered)


@pytest.mark.parametrize(
    ("here", "there"),
    [(0, 1), (True, False), (None, 0.1), ("drop", "mask"), ([1, 2], [1]), (1.0, 1.0 + 2**-52), ({"lr": 1}, {"lr": 2})],
)
def test_a_rank_with_another_value_is_named_with_both(monkeypatch: pytest.MonkeyPatch, here: Any, there: Any) -> None:
    same = {"training.epochs": 2, "training.key": here}
    held(monkeypatch, same, same, same | {"training.key": there}, same)
    with pytest.raises(BadInput) as caught:
        require_same(ACCELERATOR, same)
    assert f"training.key = {here!r} on rank 0, but {there!r} on rank 2" in str(caught.value)
    assert "training.epochs" not in str(caught.value)


def test_a_fact_that_one_rank_lacks_and_many_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    held(monkeypatch, {f"key {number}": number for number in range(9)}, {})
    with pytest.raises(BadInput, match=r"key 3 = 3 on rank 0, but None on rank 1, and 5 more\."):
        require_same(ACCELERATOR, {})


def test_ranks_that_have_the_same_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    held(monkeypatch, *[{"training.epochs": 2, "optimizer.groups": [{"pattern": "*"}]}] * 3)
    require_same(ACCELERATOR, {})
