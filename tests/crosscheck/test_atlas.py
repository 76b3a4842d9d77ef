"""The atlas is the tool's table that compares torch.optim with Optax."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from crosscheck import atlas
from crosscheck.__main__ import main
from crosscheck.atlas import DTYPES, IMPLEMENTATIONS, Atlas, Combination, Row, combinations, draw, text
from crosscheck.recorder.optimizer.rule import CLAIMABLE
from crosscheck.tolerance import WARN
from tests.matrix.cells import pairwise

SGD_OPTIONS = {"lr": 0.01, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.02, "nesterov": False, "maximize": True}
ADAM_OPTIONS = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
PLAIN = Combination("sgd", {**SGD_OPTIONS, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "maximize": False})
DAMPENED = Combination("sgd", SGD_OPTIONS)
ADAM = Combination("adam", {**ADAM_OPTIONS, "amsgrad": False, "maximize": False})
ADAMW = Combination("adamw", {**ADAM_OPTIONS, "weight_decay": 0.02, "amsgrad": True, "maximize": True})
FEW = (PLAIN, DAMPENED, ADAM, ADAMW)


@pytest.fixture(scope="module")
def few() -> Atlas:
    return draw(FEW)


def strict(text: str) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def check(table: Atlas) -> None:
    """Check that everything agrees except what the stock aliases cannot do."""
    wrong = [
        f"{row.label}, {cell.implementation}, {cell.dtype}: {cell.verdict}, eta {cell.max_eta}"
        for row in table.rows
        for cell in row.cells
        if cell.verdict not in ("match", "vacuous" if cell.out_of_range and cell.dtype == "float16" else "match")
        or not cell.max_eta <= WARN
        or not cell.elements
    ]
    assert not wrong
    assert all(row.composition_difference < 1e-12 for row in table.rows)
    assert all(row.agrees for row in table.rows)
    assert table.agrees
    every = [(implementation, dtype) for implementation in IMPLEMENTATIONS for dtype in DTYPES]
    assert all([(cell.implementation, cell.dtype) for cell in row.cells] == every for row in table.rows)


def test_a_few_combinations_agree(few: Atlas) -> None:
    assert [row.rule for row in few.rows] == ["sgd", "sgd", "adam", "adamw"]
    check(few)


def chosen() -> list[Combination]:
    """Return combinations in which every pair of options occurs, those of SGD and those of Adam and AdamW apart."""
    families: dict[bool, dict[tuple[object, ...], Combination]] = {True: {}, False: {}}
    for combination in combinations():
        values = (combination.rule, *combination.options.values())
        families[combination.rule == "sgd"][values] = combination
    return [family[values] for family in families.values() for values in pairwise(list(family))]


def test_every_pair_of_options_agrees() -> None:
    """3 implementations, 4 dtypes and 4 regimes of gradients of each give no false alarm.

    `make matrix` takes all combinations: see tests/matrix/test_atlas.py.
    """
    table = draw(chosen())
    assert {row.rule for row in table.rows} == {"sgd", "adam", "adamw"}
    check(table)


def test_only_float16_is_out_of_range(few: Atlas) -> None:
    """An unfused Adam stores (1 - beta2) g² in float16, which is zero for ordinary g; a fused one computes in float32."""
    out = {(row.label, cell.implementation, cell.dtype) for row in few.rows for cell in row.cells if cell.out_of_range}
    unfused = {(ADAM.label, implementation, "float16") for implementation in ("single", "foreach")}
    assert unfused <= out
    assert {dtype for _, _, dtype in out} == {"float16"}
    assert {label for label, _, _ in out} <= {ADAM.label, ADAMW.label}
    assert "fused" not in {implementation for _, implementation, _ in out}


def cells_of(table: Atlas) -> list[dict[str, str]]:
    """Return each combination's line as text by the heading above it."""
    found: list[dict[str, str]] = []
    heads: list[str] = []
    for line in text(table).splitlines():
        words = line.replace(" .", "_.").split()  # two betas are one cell
        if words[-1:] == ["fused"]:
            heads = words
        elif heads and len(words) == len(heads):
            found.append(dict(zip(heads, words, strict=True)))
        elif not words:
            heads = []
    return found


def test_what_is_out_of_range_is_marked_and_some_elements_remain(few: Atlas) -> None:
    for row, line in zip(few.rows, cells_of(few), strict=True):
        for implementation in IMPLEMENTATIONS:
            cells = [cell for cell in row.cells if cell.implementation == implementation]
            assert line[implementation].endswith("*") == any(cell.out_of_range for cell in cells)
            assert float(line[implementation].rstrip("*")) == pytest.approx(
                max(cell.max_eta for cell in cells), abs=0.005
            )
        assert all(cell.elements for cell in row.cells)


def test_the_table_has_a_line_for_each_combination(few: Atlas) -> None:
    plain, dampened, adam, adamw = cells_of(few)
    assert [line["Optax"] for line in (plain, dampened, adam, adamw)] == ["alias", "chain", "alias", "chain"]
    assert (plain["momentum"], dampened["momentum"], dampened["dampening"]) == ("-", "0.9", "0.1")
    assert (adam["betas"], adam["eps"], adam["amsgrad"]) == (".9_.999", "1e-08", "-")
    assert (adamw["weight_decay"], adamw["amsgrad"], adamw["maximize"]) == ("0.02", "yes", "yes")


def test_the_table_fits_a_terminal(few: Atlas) -> None:
    everything = Atlas(
        tuple(replace(few.rows[-1], rule=c.rule, label=c.label, options=c.options) for c in combinations())
    )
    assert max(map(len, text(everything).splitlines())) <= 80


def test_the_table_ends_with_a_summary(few: Atlas) -> None:
    shown = text(few)
    worst = {rule: max(row.max_eta for row in few.rows if row.rule == rule) for rule in ("sgd", "adam", "adamw")}
    for rule, stock, whole in (("sgd", 1, 2), ("adam", 1, 1), ("adamw", 0, 1)):
        assert (
            f"{rule}: the stock alias agrees in {stock} of {whole}, our chain in {whole}; worst eta {worst[rule]:.2f}\n"
        ) in shown
    assert "own pieces of the chains: dampen, scale_by_torch_amsgrad;" in shown
    assert "under typical, tiny, denormal, huge gradients" in " ".join(shown.split())
    for package in ("torch", "jax", "optax"):
        assert f"{package} {few.versions[package]}" in shown
    assert few.versions["torch"] == torch.__version__


def test_json_has_all_of_the_table(few: Atlas) -> None:
    read = strict(few.to_json())
    assert read["agrees"] is True
    assert read["versions"] == few.versions
    assert [row["options"] for row in read["rows"]] == [json.loads(json.dumps(dict(c.options))) for c in FEW]
    for there, row in zip(read["rows"], few.rows, strict=True):
        assert (there["rule"], there["label"], there["own"]) == (row.rule, row.label, list(row.own))
        assert (there["stock_agrees"], there["composition_agrees"]) == (row.stock_agrees, True)
        assert [cell["max_eta"] for cell in there["cells"]] == [cell.max_eta for cell in row.cells]


def broken(row: Row) -> Iterator[tuple[str, Row]]:
    yield "eta", replace(row, cells=(replace(row.cells[0], max_eta=float("inf"), verdict="mismatch"),))
    yield "difference", replace(row, composition_difference=float("nan"))


@pytest.mark.parametrize("where", ["eta", "difference"])
def test_a_table_with_infinities_is_strict_json_too(few: Atlas, where: str) -> None:
    """A table of an optimizer that makes NaN must be readable too."""
    table = Atlas((dict(broken(few.rows[0]))[where],))
    assert not table.agrees
    assert strict(table.to_json())["agrees"] is False
    assert text(table)


class Scaled(torch.optim.SGD):
    """An SGD whose gradients are 1 % too large."""

    def step(self, closure: Any = None) -> Any:
        del closure
        for p in (p for group in self.param_groups for p in group["params"]):
            p.grad = p.grad * 1.01
        super().step()


class ScaledIfFused(Scaled):
    """An SGD that is correct in the implementation that runs freely and wrong in a recorded one."""

    def step(self, closure: Any = None) -> Any:
        del closure
        if self.param_groups[0]["fused"]:
            super().step()
        else:
            torch.optim.SGD.step(self)


def plant(monkeypatch: pytest.MonkeyPatch, wrong: type[torch.optim.Optimizer], selection: tuple[Any, ...]) -> None:
    sgd = CLAIMABLE["sgd"]._replace(torch_class=wrong)
    monkeypatch.setattr("crosscheck.atlas.drawing.CLAIMABLE", {**CLAIMABLE, "sgd": sgd})
    monkeypatch.setattr("crosscheck.atlas.draw", partial(draw, selection, dtypes=["float32"]))


def test_a_wrong_optimizer_is_seen_in_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Scaled, (PLAIN,))
    table = atlas.draw()
    (row,) = table.rows
    assert not table.agrees
    assert not row.composition_agrees
    assert [cell.verdict for cell in row.cells] == ["mismatch"] * 3
    (line,) = cells_of(table)
    assert line["Optax"] == "NO"
    assert [line[implementation] for implementation in IMPLEMENTATIONS] == ["wrong"] * 3


def test_one_wrong_implementation_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, ScaledIfFused, (PLAIN,))
    table = atlas.draw()
    (row,) = table.rows
    assert not table.agrees
    assert row.composition_agrees
    assert [cell.verdict for cell in row.cells] == ["match", "match", "mismatch"]


@pytest.mark.parametrize(("wrong", "code"), [(torch.optim.SGD, 0), (Scaled, 1), (ScaledIfFused, 1)])
def test_the_command_exits_1_if_something_disagrees(
    wrong: type[torch.optim.Optimizer],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    plant(monkeypatch, wrong, (PLAIN, ADAM))
    assert main(["atlas", "--json", str(tmp_path / "atlas.json")]) == code
    printed = capsys.readouterr()
    assert "adam: the stock alias agrees in" in printed.out
    assert "sgd: the stock alias agrees in" in printed.out
    assert printed.err == "crosscheck: the whole table takes two to four minutes\n"  # progress is for terminals
    assert strict((tmp_path / "atlas.json").read_text())["agrees"] == (code == 0)


def test_progress_is_not_mixed_into_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    draw([PLAIN], implementations=["single"], dtypes=["float32"], progress=True)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("\r1 of 1: ")


def test_the_command_draws_the_whole_atlas(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[dict[str, Any]] = []

    def note(*chosen: Any, **options: Any) -> Atlas:
        asked.append({"chosen": chosen, **options})
        return Atlas(())

    monkeypatch.setattr("crosscheck.atlas.draw", note)
    assert main(["atlas"]) == 0
    assert asked == [{"chosen": (), "progress": False}]
    assert "own pieces of the chains: none" in capsys.readouterr().out
