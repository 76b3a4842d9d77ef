"""What a report of the kit says, in a few sentences: of the parts that it holds, and of nothing else."""

from collections.abc import Iterable, Iterator, Mapping

from tests.gpu.report import Part, Row


def in_short(parts: Mapping[str, Part]) -> Iterator[str]:
    """Yield a sentence for each part of which something was measured."""
    if checks := _rows(parts, "cross-check"):
        matching = sum(row.figures["verdict"] == "match" for row in checks)
        yield f"{matching} of {len(checks)} combinations of optimizer, implementation and number format match Optax."
    if tests := _rows(parts, "tests"):
        passed, failed = (int(sum(_numbers(tests, key))) for key in ("passed", "failed"))
        yield f"Of the tests that need a GPU {passed} pass and {failed} fail."
    if runs := [row for row in _rows(parts, "trainer") if row.figures.get("data") == "folder"]:
        low, high = _range(runs, "accuracy")
        yield f"Runs on real CIFAR-10 images reach {low:.1%} to {high:.1%}, as the recipe and its epochs allow."
    if loops := _rows(parts, "loop"):
        (low, high), (idle, busy) = _range(loops, "over_bare"), _range(loops, "busy")
        yield (
            f"The training loop takes {low:.2f} to {high:.2f} times the bare forward, backward and update, and the GPU works for "
            f"{idle:.0%} to {busy:.0%} of a step: small batches wait for launches."
        )
        low, high = _range(loops, "recorded")
        yield f"A recorded step takes {low:.2f} to {high:.2f} times one that is not recorded."
    if exact := _rows(parts, "exactness"):
        yield (
            f"{sum(bool(row.figures['same']) for row in exact)} of {len(exact)} runs that were interrupted or overflowed end as "
            "they should."
        )


def _rows(parts: Mapping[str, Part], name: str) -> list[Row]:
    """Return the measured rows of a part, which may be missing."""
    return [row for row in parts[name].rows.values() if row.figures] if name in parts else []


def _numbers(rows: Iterable[Row], key: str) -> list[float]:
    return [float(value) for row in rows if isinstance(value := row.figures.get(key), int | float)]


def _range(rows: Iterable[Row], key: str) -> tuple[float, float]:
    numbers = _numbers(rows, key) or [float("nan")]
    return min(numbers), max(numbers)
