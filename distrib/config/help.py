"""Writes `python -m distrib.train --help`: every key with its default and its meaning."""

import textwrap
from difflib import get_close_matches

from pydantic import BaseModel

from distrib.config.fields import Schema, accepted, tables
from distrib.config.messages import as_text
from distrib.errors import BadInput

_WIDTH = 80
_USAGE = """\
usage: twinstep train RECIPE [--section.key VALUE ...] [--dry-run]
       accelerate launch --config_file launch/HARDWARE.yaml -m distrib.train
           RECIPE [--section.key VALUE ...]         (several processes)

RECIPE is a TOML file, such as launch/recipes/quickstart.toml, or the bare
name of a recipe of the project, such as quickstart. --section.key VALUE
overrides one key of it. VALUE is written as in TOML, text without quotes;
`none` unsets a key that may be none. Without VALUE a key that is true or
false becomes true.

  --dry-run   do not train: print each value and where it is from, the number
              of processes and steps, the learning rate as a plot, and
              estimates of memory, disk and time, from three measured steps

examples
  twinstep train quickstart
  twinstep train quickstart --optimizer.name adam --optimizer.lr 1e-3
  twinstep train sgd-onecycle --training.epochs 6 --output.dir runs/onecycle
  twinstep train --help optimizer       the keys of one section only

exit codes   0 done, 1 fault, 2 bad input, 75 stopped on request (the same
             command continues), 130 left at once, at a second Ctrl-C. Under
             a launcher read status.json in the run's folder: launchers turn
             every failure into 1.

sections
"""


def help_text(model: type[BaseModel], section: str = "") -> str:
    """Return the help on all sections, or on one. Raises BadInput for one that does not exist."""
    if section and section not in model.model_fields:
        near = get_close_matches(section, model.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(model.model_fields)}"
        raise BadInput(f"--help {section}: there is no such section: {hint}")
    chosen = [table for table in tables(model) if section in ("", table.section)]
    lines = [] if section else [_USAGE + "\n".join(_overview(model))]
    for table in chosen:
        title = f"[{table.section}]" + (f" name = {table.name}" if table.name else "") + f"   {table.summary}"
        lines += ["", _filled(title, indent=4)]
        for key, schema in table.fields.items():
            lines += _entry(key, schema)
    return "\n".join(lines).lstrip("\n") + "\n"


def _overview(model: type[BaseModel]) -> list[str]:
    """Return a line for each section: its summary, or the names among which it chooses."""
    found: dict[str, list[str]] = {}
    for table in tables(model):
        found.setdefault(table.section, []).append(table.name or table.summary)
    return [_filled(f"  {section:<12}{' | '.join(each)}", indent=14) for section, each in found.items()]


def _filled(line: str, indent: int) -> str:
    """Return the line broken to the width, with later lines indented."""
    return textwrap.fill(line, _WIDTH, subsequent_indent=" " * indent)


def _entry(key: str, schema: Schema) -> list[str]:
    """Return the lines on one key: its default, what it takes, and its meaning."""
    dashes = "" if key.count(".") > 1 else "--"  # keys of an array of tables have no flag of their own
    default = as_text(schema["default"]) if "default" in schema else "required"
    first, takes = f"  {dashes}{key} = {default}", f"({accepted(schema)})"
    head = [f"{first}   {takes}"]
    if len(head[0]) > _WIDTH:
        head = [first, f"      {takes}"]
    return [*head, textwrap.indent(textwrap.fill(schema["description"], _WIDTH - 6), " " * 6)]
