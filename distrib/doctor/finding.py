"""Prints what the doctor finds as a table: a line each, with the fix where something would fail."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from distrib.text import count

State = Literal["ok", "note", "fails"]

_WIDTH = 80
_NAME = 16  # columns


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. Ranks send these to each other as JSON."""

    about: str
    state: State
    """ok; note: training works without it, or more slowly; fails: a run would end at the start."""
    found: str
    fix: str = ""
    """What to do, if something can be done."""
    host: str = ""
    """The machine, where it is another than the one that prints."""


def ok(about: str, found: str) -> Finding:
    return Finding(about, "ok", found)


def note(about: str, found: str, fix: str = "") -> Finding:
    return Finding(about, "note", found, fix)


def fails(about: str, found: str, fix: str) -> Finding:
    return Finding(about, "fails", found, fix)


def table(findings: Sequence[Finding]) -> str:
    """Return the findings as lines that fit a terminal of 80 columns, and what they come to."""
    lines = [line for each in findings for line in _lines(each)]
    failing = sum(each.state == "fails" for each in findings)
    notes = sum(each.state == "note" for each in findings)
    told = f" ({count(notes, 'note')})" if notes else ""
    end = f"{count(failing, 'problem')}: a run would fail here{told}" if failing else f"a run can start here{told}"
    return "\n".join([*lines, "", end])


def _lines(each: Finding) -> list[str]:
    where = f"on {each.host}: " if each.host else ""
    text = f"{where}{each.found}{f'; {each.fix}' if each.fix else ''}"
    head = f"{each.state:<6}{each.about:<{_NAME}}"
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )
