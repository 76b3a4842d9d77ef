"""`python -m distrib.train --help`: every key with its default and its meaning."""

import textwrap
from typing import Any, cast

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from distrib.config.fields import listing, variant_name, variants

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
    heading = None
    for field in listing(model):
        section = field.key.split(".")[0]
        title = f"[{section}]" + (f" name = {field.variant}" if field.variant else "")
        if title != heading:
            cls = next(c for c in variants(model)[section] if field.variant is None or field.variant == variant_name(c))
            lines += ["", f"{title}   {(cls.__doc__ or '').strip().splitlines()[0]}"]
            heading = title
        dashes = "" if field.key.count(".") > 1 else "--"  # keys of an array of tables have no flag of their own
        lines.append(f"  {dashes}{field.key} = {_show(field.default)}   ({field.accepts})")
        lines.append(textwrap.indent(textwrap.fill(field.meaning, 96), " " * 6))
    return "\n".join(lines) + "\n"


def _show(default: Any) -> str:
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return str(list(cast(tuple[object, ...], default)))
    return str(default)
