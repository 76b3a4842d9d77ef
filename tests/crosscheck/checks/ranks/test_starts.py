"""Segments of several ranks are paired by the start of the run that they are of."""

from collections.abc import Mapping, Sequence

import pytest

from crosscheck.checks.ranks.starts import RunStarts, Start


def of(first_step: int, world_size: int = 2, *, is_empty: bool = False) -> Start:
    return Start(first_step, world_size, is_empty)


EMPTY = of(7, is_empty=True)


@pytest.mark.parametrize(
    ("segments", "members"),
    [
        ({0: [of(1), of(7)], 1: [of(1), of(7)]}, [{0: 0, 1: 0}, {0: 1, 1: 1}]),
        ({0: [of(1, 4), of(7)], 1: [of(1, 4), of(7)], 2: [of(1, 4)]}, [{0: 0, 1: 0, 2: 0}, {0: 1, 1: 1}]),
        ({0: [of(1, 1), of(7)], 1: [of(7)]}, [{0: 0}, {0: 1, 1: 0}]),
        ({0: [of(1), of(9)], 1: [of(1), of(7), of(9)]}, [{0: 0, 1: 0}, {1: 1}, {0: 1, 1: 2}]),
        ({0: [of(1)], 1: [of(4)]}, [{0: 0}, {1: 0}]),
        ({0: [of(7), of(7)], 1: [of(7), of(7)]}, [{0: 0, 1: 0}, {0: 1, 1: 1}]),
        ({0: [of(7, 4), of(7)], 1: [of(7)]}, [{0: 0}, {0: 1, 1: 0}]),
        ({0: [of(7)], 1: [EMPTY, of(7)]}, [{0: 0, 1: 1}]),
        ({0: [of(7), of(7)], 1: [EMPTY, of(7)]}, [{0: 0, 1: 0}, {0: 1, 1: 1}]),
        ({0: [of(7), of(7)], 1: [of(7)]}, [{0: 0}, {0: 1}, {1: 0}]),
    ],
    ids=[
        "alike",
        "fewer ranks",
        "more ranks",
        "one that the lowest rank did not record",
        "nothing in common",
        "twice from the same checkpoint",
        "twice, with fewer ranks",
        "an empty one more",
        "killed before the first part",
        "nothing says which belong together",
    ],
)
def test_segments_of_the_same_start_belong_together(
    segments: Mapping[int, Sequence[Start]], members: Sequence[Mapping[int, int]]
) -> None:
    starts = RunStarts(segments)
    assert starts.members == members
    for number, by_rank in enumerate(members):
        assert [starts.number(rank, segment) for rank, segment in by_rank.items()] == [number] * len(by_rank)


def test_names_tell_the_rank_where_ranks_count_differently() -> None:
    starts = RunStarts({0: [of(1), of(7)], 1: [of(1), EMPTY, of(7)]})
    assert [starts.name(start) for start in (0, 1)] == ["segment-0001", "segment-0002 of rank 0"]
    assert starts.number(1, 1) == -1
    assert starts.described(0) == "segment-0001 (first step 1, world size 2)"
