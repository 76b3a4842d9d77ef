"""The page of the atlas has the whole table, and says what is wrong."""

from dataclasses import replace

from crosscheck.atlas import DTYPES, IMPLEMENTATIONS, Atlas, Cell, Row
from crosscheck.atlas.page import render
from tests.markup import Elements

CELLS = tuple(
    Cell(implementation, dtype, "match", 0.25, 0, 100) for implementation in IMPLEMENTATIONS for dtype in DTYPES
)
OPTIONS = {"lr": 0.01, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": True, "maximize": False}
ROW = Row("adam", "adam, amsgrad", OPTIONS, 0.4, 1e-15, ("scale_by_torch_amsgrad",), CELLS)


def test_every_number_is_in_it() -> None:
    page = Elements(render(Atlas((ROW,))))
    cells = page.texts["td"]
    assert cells == [".9 .999", "1e-08", "-", "yes", "-", "no", "yes", *["0.25"] * len(CELLS)]
    assert [a["title"] for a in page.named("td") if "title" in a] == ["4.0e-01 of the way", "1.0e-15 of the way"]
    assert "agree" in page.texts["span"]
    assert not page.named("script")


def test_what_is_wrong_or_out_of_range_is_marked() -> None:
    wrong = replace(CELLS[0], verdict="mismatch", max_eta=float("inf"))
    page = Elements(render(Atlas((replace(ROW, cells=(wrong, replace(CELLS[1], out_of_range=3))),))))
    assert page.texts["td"][-2:] == ["wrong", "0.25*"]
    assert "disagree" in page.texts["span"]


def test_an_empty_table_has_a_page() -> None:
    assert render(Atlas(()))
