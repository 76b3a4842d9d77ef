"""`python -m distrib.train --help`: every key with its default and its meaning."""

import textwrap
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from distrib.config.fields import listing, variants

USAGE = """\
usage: accelerate launch --config_file launch/HARDWARE.yaml -m distrib.train RECIPE.toml [--section.key VALUE …]
       python -m distrib.train RECIPE.toml [--section.key VALUE …]      (one process, no launcher)

RECIPE.toml  a TOML file, such as launch/recipes/quickstart.toml
--section.key VALUE overrides one key of the recipe; VALUE is written as in TOML, text without quotes,
`none` unsets a key that may be none.

exit codes   0 done, 1 fault, 2 bad input, 75 stopped on request with a checkpoint written (run it again).
             Under a launcher read status.json in the run's folder: launchers turn every failure into 1.
"""


def help_text(model: type[BaseModel]) -> str:
    lines = [USAGE]
    heading = None
    many = {section for section, classes in variants(model).items() if len(classes) > 1}
    for field in listing(model):
        section = field.key.split(".")[0]
        title = f"[{section}]" + (f" name = {field.variant}" if field.variant else "")
        if title != heading:
            cls = next(c for c in variants(model)[section] if section not in many or _tag(c) == field.variant)
            summary = (cls.__doc__ or "").strip().splitlines()[0]
            lines += ["", f"{title}   {summary}"]
            heading = title
        lines.append(f"  --{field.key} = {_show(field.default)}   ({field.accepts})")
        lines.append(textwrap.indent(textwrap.fill(field.meaning, 96), " " * 6))
    return "\n".join(lines) + "\n"


def _tag(cls: type[BaseModel]) -> str:
    return str(cls.model_fields["name"].default)


def _show(default: Any) -> str:
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "none"
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return str(list(default))  # pyright: ignore[reportUnknownArgumentType]
    return str(default)
