"""A recipe's file and its overrides: what they may hold, and that whatever they hold is taken or is bad input."""

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from distrib.config.fields import all_fields
from distrib.config.load import load as load_recipe
from distrib.errors import BadInput
from distrib.optim.optimizer import SGD, AdamGroup, SGDGroup
from distrib.optim.schedule import Constant
from distrib.training.recipe import RunConfig
from tests.distrib.recipes import SMALLEST, Load, Refuse


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        load_recipe(RunConfig, tmp_path / "nowhere.toml")
    for words in (str(tmp_path / "nowhere.toml"), "no such file", "launch/recipes/quickstart.toml"):
        assert words in str(caught.value)


def test_recipe_is_a_directory(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="a folder, not a regular file; give a TOML file") as caught:
        load_recipe(RunConfig, tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe[\x00", b'[output]\ndir = "caf\xe9"\n', b"\x89PNG\r\n\x1a\n"])
def test_recipe_is_not_utf_8(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "recipe.toml").write_bytes(content)
    with pytest.raises(BadInput, match="not UTF-8") as caught:
        load_recipe(RunConfig, tmp_path / "recipe.toml")
    assert str(tmp_path / "recipe.toml") in str(caught.value)


@pytest.mark.parametrize("line", ["epochs = ", "epochs 3", "[training", "a = 1\na = 2", "training: 3", "x = {", '"'])
def test_recipe_is_not_toml(refused: Refuse, line: str) -> None:
    message = refused(text=SMALLEST + line)
    for words in ("recipe.toml", "not valid TOML"):
        assert words in message
    assert re.search(r"at line \d|at end of document", message)


@pytest.mark.parametrize("value", ["1" + "0" * 5000, "[" * 5000])
@pytest.mark.parametrize("place", ["file", "command line"])
def test_absurd_toml_is_bad_input_too(refused: Refuse, value: str, place: str) -> None:
    if place == "file":
        refused(text=f"{SMALLEST}training.epochs = {value}\n")
    else:
        refused("--training.epochs", value)


@pytest.mark.parametrize("text", ["", "[training]\nepochs = 3\n", "[optimizer]\nlr = 0.1\n"])
def test_the_optimizer_must_be_named(refused: Refuse, text: str) -> None:
    assert "optimizer.name is missing: set it to one of sgd, adam, adamw" in refused(text=text)


def test_defaults_of_the_smallest_recipe(load: Load) -> None:
    assert load() == RunConfig(optimizer=SGD())
    assert load().schedule == Constant()


def test_a_configuration_cannot_be_changed(load: Load) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load().training.epochs = 4  # pyright: ignore[reportAttributeAccessIssue] (that it may not is the point)


# Overrides


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        (["--training.epochs", "7"], "training.epochs", 7),
        (["--training.epochs=7"], "training.epochs", 7),
        (["--training.epochs", "1_000"], "training.epochs", 1000),
        (["--training.epochs", "5", "--training.epochs", "6"], "training.epochs", 6),
        (["--optimizer.lr", "1"], "optimizer.lr", 1.0),
        (["--optimizer.lr", ".5"], "optimizer.lr", 0.5),
        (["--optimizer.lr=2e-3"], "optimizer.lr", 0.002),
        (["--optimizer.lr", "1."], "optimizer.lr", 1.0),
        (["--training.compile", "true"], "training.compile", True),
        (["--training.compile", "True"], "training.compile", True),
        (["--data.augment=FALSE"], "data.augment", False),
        (["--training.compile"], "training.compile", True),
        (["--optimizer.foreach", "--training.epochs", "2"], "optimizer.foreach", True),
        (["--output.dir=--a"], "output.dir", "--a"),
        (["--training.clip_norm", "0.5"], "training.clip_norm", 0.5),
        (["--training.last_batch", "mask"], "training.last_batch", "mask"),
        (["--precision.mode", "no"], "precision.mode", "no"),
        (["--output.dir", "123"], "output.dir", "123"),
        (["--output.dir", "1e5"], "output.dir", "1e5"),
        (["--output.dir", "true"], "output.dir", "true"),
        (["--output.dir", "2024-01-01"], "output.dir", "2024-01-01"),
        (["--output.dir", "[a]"], "output.dir", "[a]"),
        (["--output.dir="], "output.dir", ""),
        (["--output.dir", "with space # and hash"], "output.dir", "with space # and hash"),
        (["--checkpoint.resume", "0012"], "checkpoint.resume", "0012"),
        (["--data.source=folder:/a=b"], "data.source", "folder:/a=b"),
        (["--output.dir", "none"], "output.dir", None),
        (["--checkpoint.resume", "none"], "checkpoint.resume", "none"),
        (["--output.trackers", '["tensorboard", "wandb"]'], "output.trackers", ("tensorboard", "wandb")),
        (["--output.trackers", "tensorboard"], "output.trackers", ("tensorboard",)),
        (["--output.trackers=tensorboard,wandb"], "output.trackers", ("tensorboard", "wandb")),
        (["--optimizer.name", "adam", "--optimizer.betas", "[0.8, 0.9]"], "optimizer.betas", (0.8, 0.9)),
        (["--optimizer.name=adamw", "--optimizer.betas=[0, 0.5]"], "optimizer.betas", (0, 0.5)),
        (["--schedule.name", "multistep", "--schedule.milestones", "[3, 5]"], "schedule.milestones", (3, 5)),
    ],
)
def test_override(load: Load, arguments: list[str], key: str, value: object) -> None:
    section, name = key.split(".")
    found = getattr(getattr(load(*arguments), section), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("in_file", "override", "value"), [("epochs = 9", "2", 2), ("epochs = 0", "2", 2), ('epochs = "x"', "2", 2)]
)
def test_overrides_win_over_the_file(load: Load, in_file: str, override: str, value: int) -> None:
    text = f"{SMALLEST}[training]\n{in_file}\nseed = 5\n"
    config = load("--training.epochs", override, text=text)
    assert config.training.epochs == value
    assert config.training.seed == 5


@pytest.mark.parametrize("key", ["clip_norm", "clip_value", "ema", "world_size", "threads"])
@pytest.mark.parametrize("spelling", ["none", "None", "NONE"])
def test_none_unsets_what_the_file_sets(load: Load, key: str, spelling: str) -> None:
    number = "1" if key in ("world_size", "threads") else "0.5"
    text = f"{SMALLEST}training.{key} = {number}\n"
    assert getattr(load(text=text).training, key) is not None
    assert getattr(load(f"--training.{key}", spelling, text=text).training, key) is None


def test_one_kind_of_clipping_may_replace_the_other(load: Load) -> None:
    config = load(
        "--training.clip_norm", "none", "--training.clip_value", "1", text=f"{SMALLEST}training.clip_norm = 1\n"
    )
    assert (config.training.clip_norm, config.training.clip_value) == (None, 1.0)


def test_none_is_no_value_for_a_key_that_needs_one(refused: Refuse) -> None:
    message = refused("--training.epochs", "none")
    assert "training.epochs = 'none'" in message
    assert "integer" in message


SGD_GROUPS = '[{pattern = "*.bias", weight_decay = 0, lr = 0.1}, {pattern = "0.*", momentum = 0.5}]'
ADAM_GROUPS = '[{pattern = "*.bias", betas = [0.5, 0.6], eps = 1e-3}]'


@pytest.mark.parametrize("place", ["file", "command line"])
def test_groups_are_inline_tables(load: Load, place: str) -> None:
    def groups(name: str, value: str) -> object:
        text = f'optimizer.name = "{name}"\n'
        if place == "file":
            return load(text=f"{text}optimizer.groups = {value}\n").optimizer.groups
        return load("--optimizer.groups", value, text=text).optimizer.groups

    assert groups("sgd", SGD_GROUPS) == (
        SGDGroup(pattern="*.bias", weight_decay=0, lr=0.1),
        SGDGroup(pattern="0.*", momentum=0.5),
    )
    assert groups("adam", ADAM_GROUPS) == (AdamGroup(pattern="*.bias", betas=(0.5, 0.6), eps=1e-3),)
    assert groups("adamw", ADAM_GROUPS) == groups("adam", ADAM_GROUPS)


@pytest.mark.parametrize("arguments", [["--training.epochs"], ["--data.augment", "true", "--output.dir"]])
def test_a_key_without_a_value(refused: Refuse, arguments: list[str]) -> None:
    message = refused(*arguments)
    assert f"{arguments[-1]} has no value" in message
    assert f"{arguments[-1]} VALUE" in message


def test_a_key_is_no_value(refused: Refuse) -> None:
    message = refused("--optimizer.lr", "--training.epochs", "3")
    assert "--optimizer.lr has no value" in message


@pytest.mark.parametrize("junk", ["other.toml", "6", "-e", "-training.epochs", "training.epochs=6", "--", ""])
@pytest.mark.parametrize("before", [[], ["--training.epochs", "3"]])
def test_an_argument_that_is_no_override(refused: Refuse, junk: str, before: list[str]) -> None:
    message = refused(*before, junk)
    assert f"argument {junk!r}" in message
    assert "--training.epochs 6" in message


@pytest.mark.parametrize("value", ["3\nseed = 4", "3\n[training]\nseed = 4"])
def test_a_value_is_one_value(refused: Refuse, value: str) -> None:
    assert "training.epochs" in refused("--training.epochs", value)


def test_a_section_that_the_file_makes_no_table(refused: Refuse) -> None:
    message = refused("--training.epochs", "3", text=f"training = 3\n{SMALLEST}")
    assert "training is not a table" in message
    assert "training.epochs from the command line" in message


# Anything at all

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SPELLINGS = st.sampled_from(["none", "true", "0", "-1", "1", "0.5", "nan", "1e999", "[1]", "{a = 1}", "''", "a.b"])


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(st.tuples(st.sampled_from(sorted(all_fields(RunConfig))), TEXT | SPELLINGS), max_size=4))
def test_any_value_is_taken_or_is_bad_input(smallest: Path, pairs: list[tuple[str, str]]) -> None:
    try:
        config = load_recipe(RunConfig, smallest, [word for key, value in pairs for word in (f"--{key}", value)])
    except BadInput as error:
        assert str(error)  # noqa: PT017 (either outcome is right)
    else:
        assert isinstance(config, RunConfig)


@settings(max_examples=40, deadline=None)
@given(arguments=st.lists(TEXT | TEXT.map(lambda text: f"--{text}") | SPELLINGS, min_size=1, max_size=4))
@example(arguments=["--=3"])
@example(arguments=["--training.", "3"])
@example(arguments=["--training.epochs.x", "3"])
@example(arguments=["--training", "3"])
@example(arguments=["--..", "3"])
def test_any_arguments_are_bad_input(smallest: Path, arguments: Sequence[str]) -> None:
    """No key of this strategy exists."""
    with pytest.raises(BadInput):
        load_recipe(RunConfig, smallest, arguments)


def refused_file(path: Path) -> str:
    with pytest.raises(BadInput) as caught:
        load_recipe(RunConfig, path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_recipe_is_not_read(tmp_path: Path) -> None:
    """A pipe would be waited for, and a device never ends."""
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "large.toml").write_text("#" * 2**18)
    assert "it is a pipe" in refused_file(tmp_path / "pipe.toml")
    assert "it is a device" in refused_file(Path("/dev/zero"))
    assert "at most 131072 are read" in refused_file(tmp_path / "large.toml")


DEEP = ".".join(["a"] * 3000)


@pytest.mark.parametrize(
    "text",
    [f"{DEEP} = 1", f"[{DEEP}]", "training.epochs = " + "[" * 200 + "]" * 200, "a = " + "{a = " * 90 + "1" + "}" * 90],
)
def test_a_recipe_that_is_very_deep_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "deep.toml"
    path.write_text(f"{SMALLEST}{text}\n")
    assert f"recipe {path}: tables and arrays are nested more than" in refused_file(path)


@pytest.mark.parametrize("arguments", [[f"--{DEEP}", "1"], ["--training.epochs", "[" * 90 + "]" * 90]])
def test_an_override_that_is_very_deep_is_refused(refused: Refuse, arguments: list[str]) -> None:
    assert len(refused(*arguments)) < 300


def test_a_thousand_problems_are_told_in_brief(refused: Refuse) -> None:
    message = refused(text=SMALLEST + "".join(f"k{number} = {'9' * 3000}\n" for number in range(40)))
    assert "and 20 more problems" in message.replace("; also 20", " and 20")
    assert len(message) < 20_000


def test_a_disk_that_breaks_is_no_bad_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "open", broken)
    with pytest.raises(OSError, match=r"recipe\.toml"):
        load_recipe(RunConfig, tmp_path / "recipe.toml")
