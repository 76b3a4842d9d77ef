"""Writes docs/configuration.md: every key of a recipe, with its default, what it takes, and its meaning.

python docs/make_configuration.py
"""

from pathlib import Path

from distrib.config.fields import Schema, accepted, tables
from distrib.config.messages import as_text
from distrib.training.recipe import RunConfig

_HEAD = """\
# Configuration reference

These are all keys of a recipe, and of the command line as `--section.key VALUE`. The page is written by `docs/make_configuration.py` from the
configuration itself, which is also what `twinstep train --help` shows.
"""


def page() -> str:
    """Return the page."""
    lines = [_HEAD]
    for table in tables(RunConfig):
        name = f' name = "{table.name}"' if table.name else ""
        lines += [
            f"## [{table.section}]{name}",
            "",
            table.summary,
            "",
            "| key | default | takes | |",
            "|---|---|---|---|",
        ]
        lines += [_row(key, schema) for key, schema in table.fields.items()]
        lines.append("")
    return "\n".join(lines)


def _row(key: str, schema: Schema) -> str:
    default = as_text(schema["default"]) if "default" in schema else "required"
    cells = (f"`{key}`", f"`{default}`" if default else "", accepted(schema), schema["description"])
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"


if __name__ == "__main__":
    (Path(__file__).parent / "configuration.md").write_text(page(), encoding="utf-8")
