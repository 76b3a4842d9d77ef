"""The atlas as a page: the whole table, each number format in a column of its own."""

import math
from typing import Any

from crosscheck.atlas.as_text import options_of, shown, worst
from crosscheck.atlas.table import Atlas, Row
from crosscheck.page.template import fill
from crosscheck.report.verdict import Verdict
from crosscheck.testing import REGIMES
from crosscheck.tolerance import FAIL


def render(atlas: Atlas) -> str:
    """Return the page."""
    cells = [cell for row in atlas.rows for cell in row.cells]
    return fill(
        "atlas.html.jinja",
        atlas=atlas,
        versions=", ".join(f"{name} {version}" for name, version in atlas.versions.items()),
        stock=sum(row.stock_agrees for row in atlas.rows),
        composed=sum(row.composition_agrees for row in atlas.rows),
        worst=max((cell.max_eta for cell in cells), default=math.nan),
        fail=FAIL,
        implementations=list(dict.fromkeys(cell.implementation for cell in cells)),
        dtypes=list(dict.fromkeys(cell.dtype for cell in cells)),
        tables=[_table(rule, [row for row in atlas.rows if row.rule == rule]) for rule in atlas.rules],
        own=", ".join(sorted({piece for row in atlas.rows for piece in row.own})),
        regimes=", ".join(REGIMES),
    )


def _table(rule: str, rows: list[Row]) -> dict[str, Any]:
    options = options_of(rows)
    return {"rule": rule, "options": options, "rows": [_row(row, options) for row in rows]}


def _row(row: Row, options: list[str]) -> dict[str, Any]:
    return {
        "options": [shown(row.options[name]) for name in options],
        "stock": row.stock_agrees,
        "chain": row.composition_agrees,
        "stock_difference": f"{row.stock_difference:.1e} of the way",
        "chain_difference": f"{row.composition_difference:.1e} of the way",
        "cells": [{"text": worst([cell]), "wrong": cell.verdict == Verdict.MISMATCH} for cell in row.cells],
    }
