"""The atlas is the tool's table that compares torch.optim with Optax."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from crosscheck import atlas
from crosscheck.__main__ import main
from crosscheck.atlas import CLASSES, DTYPES, IMPLEMENTATIONS, Atlas, Combination, Row, combinations, draw
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


def test_what_is_out_of_range_is_marked_and_some_elements_remain(few: Atlas) -> None:
    (line,) = [line for line in str(few).splitlines() if line.startswith(ADAM.label + " ")]
    (row,) = [row for row in few.rows if row.label == ADAM.label]
    shown = line.split()[-len(row.cells) :]
    assert [entry.endswith("*") for entry in shown] == [bool(cell.out_of_range) for cell in row.cells]
    assert all(cell.elements for cell in row.cells)


def test_the_table_has_a_line_for_each_combination(few: Atlas) -> None:
    lines = str(few).splitlines()
    head, rows = lines[0], lines[1 : 1 + len(FEW)]
    for implementation in IMPLEMENTATIONS:
        assert len(re.findall(rf"{implementation}/\w+", head)) == len(DTYPES)
    for line, combination, row in zip(rows, FEW, few.rows, strict=True):
        assert line.startswith(f"{combination.label}  ")
        answers = line.removeprefix(combination.label).split()
        assert (answers[0], answers[2]) == ("yes" if row.stock_agrees else "NO", "yes")
        assert len(answers) == 4 + len(row.cells)
        assert float(answers[1]) == pytest.approx(row.stock_difference, rel=0.1)
    assert [row.stock_agrees for row in few.rows] == [True, False, True, False]


def test_the_table_ends_with_a_summary(few: Atlas) -> None:
    text = str(few)
    worst = {rule: max(row.max_eta for row in few.rows if row.rule == rule) for rule in ("sgd", "adam", "adamw")}
    for rule, stock, whole in (("sgd", 1, 2), ("adam", 1, 1), ("adamw", 0, 1)):
        assert (
            f"{rule}: the stock alias agrees in {stock} of {whole} combinations, the composition in {whole}; "
            f"worst eta {worst[rule]:.2f}\n"
        ) in text
    assert "own pieces of the compositions: dampen, scale_by_torch_amsgrad;" in text
    assert "over typical, tiny, denormal, huge gradients" in text
    for package in ("torch", "jax", "optax"):
        assert f"{package} {few.versions[package]}" in text
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
    assert str(table)


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
    monkeypatch.setattr("crosscheck.atlas.CLASSES", {**CLASSES, "sgd": wrong})
    monkeypatch.setattr("crosscheck.atlas.draw", partial(draw, selection, dtypes=["float32"]))


def test_a_wrong_optimizer_is_seen_in_every_column(monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, Scaled, (PLAIN,))
    table = atlas.draw()
    (row,) = table.rows
    assert not table.agrees
    assert not row.composition_agrees
    assert [cell.verdict for cell in row.cells] == ["mismatch"] * 3
    line = str(table).splitlines()[1].split()
    assert line.count("NO") == 2  # once for the stock alias and once for the composition
    assert line[-3:] == ["mismatch"] * 3


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
    assert PLAIN.label in printed.out
    assert ADAM.label in printed.out
    assert "sgd: the stock alias agrees in" in printed.out
    assert printed.err == ""  # progress is for terminals
    assert strict((tmp_path / "atlas.json").read_text())["agrees"] == (code == 0)


def test_the_command_draws_the_whole_atlas(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[dict[str, Any]] = []

    def note(*chosen: Any, **options: Any) -> Atlas:
        asked.append({"chosen": chosen, **options})
        return Atlas(())

    monkeypatch.setattr("crosscheck.atlas.draw", note)
    assert main(["atlas"]) == 0
    assert asked == [{"chosen": (), "progress": False}]
    assert "own pieces of the compositions: none" in capsys.readouterr().out
