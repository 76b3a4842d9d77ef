"""Tests which images are taken, and sets that memory does not hold."""

import pytest

from distrib.data import selection
from distrib.data.selection import Selection
from distrib.errors import BadInput

TOTALS = {"train": 60, "test": 40}


def test_images_are_taken_evenly() -> None:
    chosen = Selection(train=6, test=100).of("folder:x", TOTALS)
    assert chosen["train"].tolist() == [0, 10, 20, 30, 40, 50]
    assert chosen["test"].tolist() == list(range(40))


@pytest.mark.parametrize(
    ("processes", "images", "fits"), [("", 100, True), ("1", 99, False), ("2", 200, True), ("2", 199, False)]
)
def test_each_process_needs_room_for_all_images(
    monkeypatch: pytest.MonkeyPatch, processes: str, images: int, fits: bool
) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    monkeypatch.setattr(selection, "memory", lambda: 2 * images * 3072)
    if fits:
        Selection().of("folder:x", TOTALS)
        return
    with pytest.raises(BadInput, match=r"data\.source = folder:x: .*at most 99 together") as caught:
        Selection().of("folder:x", TOTALS)
    Selection(train=59).of("folder:x", TOTALS)
    assert ("in each of 2 processes" in str(caught.value)) == (processes == "2")
