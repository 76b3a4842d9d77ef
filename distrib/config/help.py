"""`python -m distrib.train --help`: every key with its default and its meaning."""

import textwrap
from typing import Any

from pydantic import BaseModel

from distrib.config.fields import accepted, tables

USAGE = """\
usage: accelerate launch --config_file launch/HARDWARE.yaml -m distrib.train RECIPE.toml [--section.key VALUE …]
       python -m distrib.train RECIPE.toml [--section.key VALUE …]      (one process, no launcher)

RECIPE.toml  a TOML file, such as launch/recipes/quickstart.toml
--section.key VALUE overrides one key of the recipe; VALUE is written as in TOML, text without quotes,
`none` unsets a key that may be none. Without VALUE a key that is true or false becomes true.

exit codes   0 done, 1 fault, 2 bad input, 75 stopped on request (the same command continues), 130 left at
             once, at a second Ctrl-C.
             Under a launcher read status.json in the run's folder: launchers turn every failure into 1.
"""


def help_text(model: type[BaseModel]) -> str:
    lines = [USAGE]
    for table in tables(model):
        lines += ["", f"[{table.section}]" + (f" name = {table.name}" if table.name else "") + f"   {table.summary}"]
        for key, schema in table.fields.items():
            dashes = "" if key.count(".") > 1 else "--"  # keys of an array of tables have no flag of their own
            default = _show(schema["default"]) if "default" in schema else "required"
            lines.append(f"  {dashes}{key} = {default}   ({accepted(schema)})")
            lines.append(textwrap.indent(textwrap.fill(schema["description"], 96), " " * 6))
    return "\n".join(lines) + "\n"


def _show(default: Any) -> str:
    if default is None:
        return "none"
    return str(default).lower() if isinstance(default, bool) else str(default)
