"""Tests the words of a dry run."""

import math

import pytest

from distrib.dry_run import text


def test_the_plot_of_a_step_joins_its_plateaus() -> None:
    lines = text.plot(lambda step: 0.1 if step < 50 else 0.0, 100, ascii_only=True)
    assert max(map(len, lines)) <= text.WIDTH
    top, *middle, bottom, ground, axis = lines
    assert top.startswith("       0.1 |" + 34 * "*")
    assert bottom.startswith("         0 |")
    assert bottom.endswith("*")
    assert [line.count("*") for line in middle] == [1] * len(middle), "the jump is a line"
    assert ground.strip().startswith("+---")
    assert axis.split() == ["step", "1", "100"]


@pytest.mark.parametrize("total", [1, 2, 7, 68, 1_000_000_000])
def test_a_constant_rate_is_a_level_line_however_long_the_run_is(total: int) -> None:
    lines = text.plot(lambda _: 0.05, total, ascii_only=False)
    columns = min(68, total)
    assert lines[0] == "      0.05 │" + "•" * columns
    assert all("•" not in line for line in lines[1:])
    assert max(map(len, lines)) <= text.WIDTH


def test_a_rate_that_grows_for_ever_is_at_the_top() -> None:
    lines = text.plot(lambda step: math.inf if step else 1.0, 3, ascii_only=True)
    assert lines[0] == "         1 |***"
    assert text.plot(lambda _: 0.0, 3, ascii_only=True)[8] == "         0 |***"


def test_sizes_and_times() -> None:
    assert [text.size(n) for n in (0, 1023, 1536, 250 * 2**20, 3.5 * 2**40)] == [
        "0 bytes",
        "1,023 bytes",
        "1.5 KiB",
        "250 MiB",
        "3,584 GiB",
    ]
    assert [text.duration(s) for s in (0.01234, 89.9, 90, 5399, 86400)] == [
        "0.0123 s",
        "89.9 s",
        "1.5 min",
        "90 min",
        "24 h",
    ]
