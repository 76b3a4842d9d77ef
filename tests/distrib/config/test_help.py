"""The help shows every key with its default, what it accepts, and its meaning."""

import re
import tomllib
from typing import cast, get_args

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from distrib.config.help import help_text
from distrib.errors import BadInput
from distrib.training.recipe import RunConfig
from tests.distrib.recipes import OPTIMIZERS, SCHEDULES

HELP = help_text(RunConfig)


def sections() -> list[tuple[str, type[BaseModel]]]:
    """Section and class, one for each `name` where there are several; read off the classes, not off the help."""
    found: list[tuple[str, type[BaseModel]]] = []
    for section, info in RunConfig.model_fields.items():
        classes = cast("tuple[type[BaseModel], ...]", get_args(info.annotation) or (info.annotation,))
        found += [(section, cls) for cls in classes]
    return found


def block(section: str, cls: type[BaseModel]) -> str:
    """What the help says between the title of one section (and name) and the next."""
    tag = cls.model_fields["name"].default if section in ("optimizer", "schedule") else None
    title = f"[{section}]" + (f" name = {tag}" if tag else "")
    found = re.search(rf"^{re.escape(title)} .*?(?=^\[|\Z)", HELP, re.MULTILINE | re.DOTALL)
    assert found, f"the help has no {title}"
    return found[0]


ALL_FIELDS = [
    (section, cls, field)
    for section, cls in sections()
    for field in cls.model_fields
    if field != "name" or section == "model"
]


@pytest.mark.parametrize(("section", "cls", "field"), ALL_FIELDS)
def test_help_lists_every_field(section: str, cls: type[BaseModel], field: str) -> None:
    info = cls.model_fields[field]
    entry = re.search(
        rf"^  --{section}\.{field} = (?P<default>.+?)\s+\((?P<accepts>.+)\)\n(?P<meaning>(?:      .*\n?)+)",
        block(section, cls),
        re.MULTILINE,
    )
    assert entry, f"{section}.{field} is not in the help"
    default = info.get_default()
    if info.is_required():
        assert default is PydanticUndefined
        assert entry["default"] == "required"
    elif default is None:
        assert entry["default"] == "none"
    elif isinstance(default, str):
        assert entry["default"] == default
    else:
        shown = tomllib.loads(f"value = {entry['default']}")["value"]
        assert shown == (list(default) if isinstance(default, tuple) else default)  # pyright: ignore[reportUnknownArgumentType]
    assert " ".join(entry["meaning"].split()) == " ".join((info.description or "").split())
    assert len(entry["meaning"].split()) >= 1


@pytest.mark.parametrize("section", ["optimizer", "schedule"])
def test_help_lists_the_key_that_chooses_the_variant(section: str) -> None:
    assert f"--{section}.name" in HELP


@pytest.mark.parametrize(
    ("section", "name"),
    [("optimizer", name) for name in OPTIMIZERS] + [("schedule", name) for name in SCHEDULES],
)
def test_help_lists_every_variant(section: str, name: str) -> None:
    assert f"[{section}] name = {name}   " in HELP


@pytest.mark.parametrize("key", ["pattern", "momentum", "betas"])
def test_help_lists_the_keys_of_a_group(key: str) -> None:
    groups = [text for text in HELP.split("  --") if text.startswith("optimizer.groups")]
    assert any(re.search(rf"\b{key}\b", text.replace("a `pattern` and", "")) for text in groups)


def test_help_shows_no_python() -> None:
    assert "typing." not in HELP
    assert "FieldInfo" not in HELP


@pytest.mark.parametrize(
    ("key", "limits"),
    [("training.clip_norm", "> 0"), ("training.ema", "> 0 and < 1"), ("data.train_images", ">= 1")],
)
def test_help_shows_the_limits_of_optional_numbers(key: str, limits: str) -> None:
    (line,) = [line for line in HELP.splitlines() if line.startswith(f"  --{key} = ")]
    assert limits in line


@pytest.mark.parametrize(
    ("key", "accepts"),
    [
        ("training.epochs", "integer >= 1 and <= 1000000000"),
        ("training.label_smoothing", "number >= 0 and < 1"),
        ("training.compile", "true | false"),
        ("training.last_batch", "drop | mask"),
        ("data.root", "text or none"),
        ("output.trackers", "[text, …]"),
        ("precision.mode", "auto | no | tf32 | bf16 | fp16"),
    ],
)
def test_help_says_what_is_accepted(key: str, accepts: str) -> None:
    (line,) = [line for line in HELP.splitlines() if line.startswith(f"  --{key} = ")]
    assert line.endswith(f"({accepts})")


@pytest.mark.parametrize(
    "words", ["usage:", "launch/recipes/quickstart.toml", "--section.key VALUE", "75", "status.json"]
)
def test_help_explains_the_command(words: str) -> None:
    assert words in HELP


def test_help_fits_80_columns() -> None:
    assert max(map(len, HELP.splitlines())) <= 80


def test_help_lists_the_sections_and_their_names_first() -> None:
    overview = HELP.partition("\n[data]")[0]
    for section in RunConfig.model_fields:
        assert f"\n  {section} " in overview
    assert " | ".join(OPTIMIZERS) in overview


@pytest.mark.parametrize("section", RunConfig.model_fields)
def test_help_on_one_section(section: str) -> None:
    text = help_text(RunConfig, section)
    assert {line.partition("]")[0] for line in text.splitlines() if line.startswith("[")} == {f"[{section}"}
    assert text.strip() in HELP


@pytest.mark.parametrize(
    ("section", "hint"), [("optimiser", "did you mean optimizer?"), ("zzz", "there are data, model, training")]
)
def test_help_on_a_section_that_does_not_exist(section: str, hint: str) -> None:
    with pytest.raises(BadInput, match=re.escape(f"--help {section}: there is no such section: {hint}")):
        help_text(RunConfig, section)
