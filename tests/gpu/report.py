"""The kit's report: what each part measured, as JSON for programs and Markdown for people."""

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from crosscheck.files import write_whole

Figure = bool | int | float | str | None
Figures = dict[str, Figure]

NOT_YET_RUN = "not yet run"


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Column(Strict):
    """One figure of each case."""

    key: str
    title: str
    form: str = ""
    """How a number is written, a format specification such as `,.0f`."""


class Row(Strict):
    """What became of one case: its figures, or why there are none. A case may have figures and a problem."""

    figures: Figures = {}
    problem: str = ""
    """What is wrong with what was measured, or the error that ended the case."""
    skipped: str = ""
    """Why this case cannot be measured on this device."""

    @field_validator("figures")
    @classmethod
    def _in_json(cls, figures: Figures) -> Figures:
        """JSON has no infinities and no NaN: they are the strings inf, -inf and nan."""
        return {
            key: str(figure) if isinstance(figure, float) and not math.isfinite(figure) else figure
            for key, figure in figures.items()
        }


class Part(Strict):
    """One part of the kit, as far as it came."""

    title: str = ""
    columns: list[Column] = []
    planned: list[str] = []
    """All cases that the part has here, in the order in which they run."""
    rows: dict[str, Row] = {}
    state: Literal["not run", "running", "done", "cut off", "crashed"] = "not run"
    why: str = ""
    """Why the part did not come to its end."""
    seconds: float = 0.0
    day: str = ""
    """When it last ran, UTC."""

    @property
    def is_good(self) -> bool:
        """Whether it came to its end without a problem."""
        return self.state == "done" and not any(row.problem for row in self.rows.values())


class Report(Strict):
    """All parts that were asked for, in the order in which they run."""

    format: Literal[1] = 1
    device: str
    """The GPU's name, or `cpu`."""
    versions: dict[str, str] = {}
    started: str = ""
    """When the first start began, UTC."""
    parts: dict[str, Part] = {}

    @property
    def is_good(self) -> bool:
        return all(part.is_good for part in self.parts.values())


class Unreadable(Exception):
    """A file that should hold a report does not; the message names it."""


def read(path: Path) -> Report | None:
    """The report of an earlier start; None if there is none. Raises Unreadable."""
    try:
        return Report.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise Unreadable(f"{path} is no report of this kit ({_first_line(error)})") from None


def write(report: Report, folder: Path) -> None:
    """Write report.json and report.md; whoever reads them finds a whole one at any time."""
    write_whole(folder / "report.json", f"{report.model_dump_json(indent=1)}\n".encode())
    write_whole(folder / "report.md", as_markdown(report).encode())


def as_markdown(report: Report) -> str:
    """One table for each part."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = [f"# GPU kit: {report.device}", "", f"Started {report.started}. {versions}.", ""]
    for name, part in report.parts.items():
        lines += [f"## {name}: {part.title or NOT_YET_RUN}", "", f"{state(part)}.", "", *table(part), ""]
    return "\n".join(lines)


def table(part: Part) -> list[str]:
    """The part's cases, planned ones that were not measured among them; columns without a figure are left out."""
    names = [*part.planned, *(name for name in part.rows if name not in part.planned)]
    if not names:
        return []
    columns = [column for column in part.columns if not part.rows or _has_figures(part, column)]
    head = ["case", *(column.title for column in columns)]
    remarks = {name: _remark(part.rows.get(name)) for name in names}
    if any(remarks.values()):
        head.append("remark")
    lines = [_line(head), _line(["---"] * len(head))]
    for name in names:
        row = part.rows.get(name, Row())
        cells = [name, *(_shown(row.figures.get(column.key), column.form) for column in columns)]
        lines.append(_line([*cells, remarks[name]][: len(head)]))
    return lines


def _has_figures(part: Part, column: Column) -> bool:
    return any(row.figures.get(column.key) is not None for row in part.rows.values())


def _remark(row: Row | None) -> str:
    if row is None:
        return NOT_YET_RUN
    return f"**{row.problem}**" if row.problem else f"left out: {row.skipped}" if row.skipped else ""


def state(part: Part) -> str:
    """How far a part came, in a sentence without its full stop."""
    measured = f"{part.state.capitalize()}, {len(part.rows)} of {len(part.planned)} cases in {part.seconds:.0f} s"
    when = f"{measured}, on {part.day}" if part.day else measured
    return f"{when}: {part.why}" if part.why else when


def _shown(figure: Figure, form: str) -> str:
    if figure is None:
        return ""
    if isinstance(figure, bool):
        return "yes" if figure else "no"
    return figure if isinstance(figure, str) else format(figure, form)


def _line(cells: list[str]) -> str:
    plain = (" ".join(cell.split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(plain)} |"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
