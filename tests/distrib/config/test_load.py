"""Recipes, overrides, the messages for what is wrong with them, and the help."""

import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from distrib.checkpoint.config import CheckpointConfig
from distrib.config.fields import all_fields
from distrib.config.help import help_text
from distrib.config.load import load as load_recipe
from distrib.data.config import DataConfig
from distrib.errors import BadInput
from distrib.job.run_folder import OutputConfig
from distrib.optim.optimizer import SGD, Adam, AdamGroup, AdamW, SGDGroup
from distrib.optim.precision import PrecisionConfig
from distrib.optim.schedule import Constant, Cosine, Exponential, MultiStep, OneCycle, Step
from distrib.training.config import TrainingConfig
from distrib.training.recipe import RunConfig

OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
SCHEDULES = {
    "constant": Constant,
    "step": Step,
    "multistep": MultiStep,
    "exponential": Exponential,
    "cosine": Cosine,
    "onecycle": OneCycle,
}
SMALLEST = 'optimizer.name = "sgd"\n'

Load = Callable[..., RunConfig]
Refuse = Callable[..., str]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Writes `text` as a recipe and loads it with overrides."""

    def from_text(*overrides: str, text: str = SMALLEST) -> RunConfig:
        path = tmp_path / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        return load_recipe(RunConfig, path, overrides)

    return from_text


@pytest.fixture
def refused(load: Load) -> Refuse:
    """The message of the BadInput that load(…) raises."""

    def message(*overrides: str, text: str = SMALLEST) -> str:
        with pytest.raises(BadInput) as caught:
            load(*overrides, text=text)
        return str(caught.value)

    return message


@pytest.fixture(scope="module")
def smallest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "smallest.toml"
    path.write_text(SMALLEST, encoding="utf-8")
    return path


# The file itself


def test_missing_recipe(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        load_recipe(RunConfig, tmp_path / "nowhere.toml")
    for words in (str(tmp_path / "nowhere.toml"), "no such file", "launch/recipes/quickstart.toml"):
        assert words in str(caught.value)


def test_recipe_is_a_directory(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="directory; give a TOML file") as caught:
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
    assert "--training.epochs" in message


# Values of the wrong kind, in the file and on the command line

NUMBERS = [
    # key, as in TOML, as shown, what is accepted
    ("training.epochs", "true", "True", "integer"),
    ("training.epochs", '"6"', "'6'", "integer"),
    ("training.epochs", "2.5", "2.5", "integer"),
    ("training.epochs", "2.0", "2.0", "integer"),
    ("training.epochs", "[3]", "[3]", "integer"),
    ("training.epochs", "2024-01-01", "2024", "integer"),
    ("training.epochs", "0", "0", "greater than or equal to 1"),
    ("training.epochs", "-3", "-3", "greater than or equal to 1"),
    ("training.batch_size", "0", "0", "greater than or equal to 1"),
    ("training.accumulate", "0", "0", "greater than or equal to 1"),
    ("training.seed", "-1", "-1", "greater than or equal to 0"),
    ("training.seed", str(2**63), str(2**63), f"less than {2**63}"),
    ("training.world_size", "0", "0", "greater than or equal to 1"),
    ("training.clip_norm", "0", "0", "greater than 0"),
    ("training.clip_value", "-1.5", "-1.5", "greater than 0"),
    ("training.ema", "1", "1", "less than 1"),
    ("training.label_smoothing", "1.0", "1.0", "less than 1"),
    ("training.compile", "1", "1", "boolean"),
    ("training.compile", '"yes"', "'yes'", "boolean"),
    ("optimizer.lr", "-1", "-1", "greater than or equal to 0"),
    ("optimizer.lr", "nan", "nan", "finite"),
    ("optimizer.lr", "inf", "inf", "finite"),
    ("optimizer.lr", "-inf", "-inf", "finite"),
    ("optimizer.lr", '"fast"', "'fast'", "number"),
    ("optimizer.lr", "true", "True", "number"),
    ("optimizer.momentum", "1", "1", "less than 1"),
    ("optimizer.momentum", "-0.1", "-0.1", "greater than or equal to 0"),
    ("optimizer.weight_decay", "nan", "nan", "finite"),
    ("optimizer.fused", '"no"', "'no'", "boolean"),
    ("precision.init_scale", "0.0", "0.0", "greater than 0"),
    ("precision.growth_interval", "0", "0", "greater than or equal to 1"),
    ("checkpoint.keep", "0", "0", "greater than or equal to 1"),
    ("checkpoint.every_steps", "0", "0", "greater than or equal to 1"),
    ("checkpoint.every_minutes", "0", "0", "greater than 0"),
    ("data.train_images", "0", "0", "greater than or equal to 1"),
    ("data.download", "0", "0", "boolean"),
]
TEXTS = [
    ("training.last_batch", "keep", "'drop' or 'mask'"),
    ("training.last_batch", "Mask", "'drop' or 'mask'"),
    ("precision.mode", "fp8", "'auto', 'no', 'tf32', 'bf16' or 'fp16'"),
    ("model.name", "resnet", "'article'"),
    ("data.source", "cifar", "auto, cifar10, synthetic or folder:PATH"),
    ("data.source", "folder:", "auto, cifar10, synthetic or folder:PATH"),
    ("data.source", "", "auto, cifar10, synthetic or folder:PATH"),
]


@pytest.mark.parametrize("place", ["recipe.toml", "the command line"])
@pytest.mark.parametrize(("key", "value", "shown", "accepted"), NUMBERS)
def test_a_number_that_is_refused(refused: Refuse, place: str, key: str, value: str, shown: str, accepted: str) -> None:
    in_file = place == "recipe.toml"
    message = refused(text=f"{SMALLEST}{key} = {value}\n") if in_file else refused(f"--{key}", value)
    for words in (f"{key} = ", shown, accepted, f"{place})"):
        assert words in message


@pytest.mark.parametrize("place", ["recipe.toml", "the command line"])
@pytest.mark.parametrize(("key", "value", "accepted"), TEXTS)
def test_a_text_that_is_refused(refused: Refuse, place: str, key: str, value: str, accepted: str) -> None:
    in_file = place == "recipe.toml"
    message = refused(text=f'{SMALLEST}{key} = "{value}"\n') if in_file else refused(f"--{key}", value)
    for words in (f"{key} = {value!r}", accepted, f"{place})"):
        assert words in message


@pytest.mark.parametrize("key", ["output.dir", "data.source", "checkpoint.resume", "data.root"])
@pytest.mark.parametrize("value", ["3", "true", "[]"])
def test_a_text_key_in_the_file_takes_text_only(refused: Refuse, key: str, value: str) -> None:
    message = refused(text=f"{SMALLEST}{key} = {value}\n")
    assert f"{key} = " in message
    assert "string" in message


@pytest.mark.parametrize("section", ["optimizer", "schedule"])
@pytest.mark.parametrize("value", ["poly", "SGD", "Constant", ""])
@pytest.mark.parametrize("place", ["file", "command line"])
def test_an_unknown_name_lists_the_known_ones(refused: Refuse, section: str, value: str, place: str) -> None:
    text = f'{section}.name = "{value}"\n'
    text = text if section == "optimizer" else SMALLEST + text
    message = refused(text=text) if place == "file" else refused(f"--{section}.name", value)
    known = OPTIMIZERS if section == "optimizer" else SCHEDULES
    assert f"{section}.name = {value!r}" in message
    assert ", ".join(known) in message


@pytest.mark.parametrize("value", ["3", "[1]", "{a = 1}", "true"])
def test_a_name_of_the_wrong_type(refused: Refuse, value: str) -> None:
    message = refused(text=f"optimizer.name = {value}\n")
    assert "optimizer.name = " in message
    assert "sgd, adam, adamw" in message


@pytest.mark.parametrize(
    ("name", "key"), [("step", "step_size"), ("multistep", "milestones"), ("exponential", "gamma")]
)
def test_a_schedule_without_its_required_key(refused: Refuse, name: str, key: str) -> None:
    assert f"schedule.{key} is missing" in refused("--schedule.name", name)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--optimizer.name", "adam", "--optimizer.betas", "[1.0, 0.9]"], ["optimizer.betas.0 = 1.0", "less than 1"]),
        (["--optimizer.name", "adam", "--optimizer.betas", "[0.9, nan]"], ["optimizer.betas.1 = nan", "finite"]),
        (["--optimizer.name", "adam", "--optimizer.betas", "[0.9]"], ["optimizer.betas.1", "missing"]),
        (["--optimizer.name", "adam", "--optimizer.betas", "[0.9, 0.9, 0.9]"], ["optimizer.betas", "2 items"]),
        (["--optimizer.groups", "[{lr = 0.1}]"], ["optimizer.groups.0.pattern", "missing"]),
        (
            ["--optimizer.groups", '[{pattern = "*", lr = -1}]'],
            ["optimizer.groups.0.lr = -1", "greater than or equal to 0"],
        ),
        (["--schedule.name", "multistep", "--schedule.milestones", "[3, 0]"], ["schedule.milestones.1 = 0", "1"]),
        (["--schedule.name", "multistep", "--schedule.milestones", "[]"], ["schedule.milestones = []", "at least 1"]),
        (["--schedule.name", "onecycle", "--schedule.pct_start", "1"], ["schedule.pct_start = 1", "less than 1"]),
        (
            ["--schedule.name", "cosine", "--schedule.unit", "weeks"],
            ["schedule.unit = 'weeks'", "'updates' or 'epochs'"],
        ),
        (["--output.trackers", "[1]"], ["output.trackers.0 = 1", "string"]),
    ],
)
def test_lists_and_tables_are_checked_inside(refused: Refuse, arguments: list[str], words: list[str]) -> None:
    message = refused(*arguments)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["--optimizer.name", "adam", "--optimizer.betas", "[1.0, 0.9]"],
        ["--optimizer.groups", '[{pattern = "*", lr = -1}]'],
        ["--trainin.epochs", "3"],
    ],
)
def test_problems_inside_say_where_they_were_set(refused: Refuse, arguments: list[str]) -> None:
    assert "from the command line" in refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "text", "word"),
    [
        (["--output.trackers", "tensorboard"], SMALLEST, "array|list"),
        (["--schedule.name", "multistep", "--schedule.milestones", "3"], SMALLEST, "array|list"),
        ([], f"training = 3\n{SMALLEST}", "table"),
        ([], "optimizer = 3\n", "table"),
    ],
)
def test_messages_speak_toml(refused: Refuse, arguments: list[str], text: str, word: str) -> None:
    message = refused(*arguments, text=text)
    assert re.search(word, message)
    assert not re.search("tuple|dictionary|instance", message)


def test_every_problem_is_told_at_once(refused: Refuse) -> None:
    message = refused("--training.epochs", "0", "--optimizer.lr", "-1", "--output.dirr", "x")
    for words in ("training.epochs = 0", "optimizer.lr = -1", "output.dirr", "; also "):
        assert words in message


# Names that do not exist

PLAIN_KEYS = [key for key in all_fields(RunConfig) if key.split(".")[0] not in ("optimizer", "schedule")]


@pytest.mark.parametrize("place", ["recipe.toml", "the command line"])
@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("training.epoch", "training.epochs"),
        ("training.batchsize", "training.batch_size"),
        ("training.batch-size", "training.batch_size"),
        ("output.directory", "output.dir"),
        ("checkpoint.every_step", "checkpoint.every_steps"),
        ("optimizer.momentun", "optimizer.momentum"),
        ("optimizer.nestrov", "optimizer.nesterov"),
        ("epochs", "training.epochs"),
        ("momentum", "optimizer.momentum"),
        ("trainin.epochs", "training"),
        ("optimiser.name", "optimizer"),
    ],
)
def test_an_unknown_key_suggests_the_nearest(refused: Refuse, place: str, key: str, near: str) -> None:
    message = refused(text=f"{key} = 6\n{SMALLEST}") if place == "recipe.toml" else refused(f"--{key}", "6")
    assert "unknown key" in message
    assert f"did you mean {near}?" in message
    if near.count("."):
        assert place in message


@settings(max_examples=40, deadline=None)
@given(key=st.sampled_from(PLAIN_KEYS), data=st.data())
def test_a_letter_too_few_still_finds_the_key(smallest: Path, key: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(key.index(".") + 1, len(key) - 1))
    with pytest.raises(BadInput, match=re.escape(f"did you mean {key}?")):
        load_recipe(RunConfig, smallest, [f"--{key[:at]}{key[at + 1 :]}", "1"])


@pytest.mark.parametrize("place", ["file", "command line"])
@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("output.zzz", OutputConfig),
        ("training.zzz", TrainingConfig),
        ("checkpoint.interval", CheckpointConfig),  # not like checkpoint.keep
        ("optimizer.learning_rate", SGD),  # not like optimizer.dampening
    ],
)
def test_an_unknown_key_like_no_other_lists_the_section(
    refused: Refuse, place: str, key: str, known: type[BaseModel]
) -> None:
    message = refused(text=f"{SMALLEST}{key} = 1\n") if place == "file" else refused(f"--{key}", "1")
    section = key.split(".")[0]
    assert f"unknown key {key}" in message
    assert "accepted are" in message
    for field in known.model_fields:
        assert f"{section}.{field}" in message


@pytest.mark.parametrize("place", ["file", "command line"])
def test_an_unknown_section_lists_the_sections(refused: Refuse, place: str) -> None:
    message = refused(text=f"{SMALLEST}[zzz]\na = 1\n") if place == "file" else refused("--zzz.a", "1")
    assert "unknown key zzz" in message
    assert ", ".join(RunConfig.model_fields) in message


@pytest.mark.parametrize(
    ("chosen", "key", "owners"),
    [
        ("adam", "optimizer.momentum", "sgd"),
        ("adamw", "optimizer.nesterov", "sgd"),
        ("sgd", "optimizer.betas", "adam and adamw"),
        ("sgd", "optimizer.amsgrad", "adam and adamw"),
        ("adamw", "optimizer.decoupled_weight_decay", "adam"),
        ("constant", "schedule.gamma", "exponential and multistep and step"),
        ("cosine", "schedule.pct_start", "onecycle"),
    ],
)
@pytest.mark.parametrize("place", ["recipe.toml", "the command line"])
def test_a_key_of_another_variant(refused: Refuse, chosen: str, key: str, owners: str, place: str) -> None:
    section = key.split(".")[0]
    text = f'{section}.name = "{chosen}"\n' + (SMALLEST if section == "schedule" else "")
    message = refused(text=f"{text}{key} = 0.9\n") if place == "recipe.toml" else refused(f"--{key}", "0.9", text=text)
    for words in (f"unknown key {key}", f"belongs to {owners}", f"{section}.name is {chosen}", place):
        assert words in message


@pytest.mark.parametrize("group", ['{pattern = "*", lrr = 1}', '{pattern = "*", betas = [0.1, 0.2]}'])
def test_an_unknown_key_of_a_group(refused: Refuse, group: str) -> None:
    assert "unknown key optimizer.groups.0." in refused("--optimizer.groups", f"[{group}]")


@pytest.mark.parametrize(
    ("group", "hint"),
    [('{pattern = "*", lrr = 1}', r"\blr\b"), ('{patern = "*"}', r"\bpattern\?"), ("{nu = 1}", "momentum")],
)
def test_an_unknown_key_of_a_group_suggests_the_groups_keys(refused: Refuse, group: str, hint: str) -> None:
    assert re.search(hint, refused("--optimizer.groups", f"[{group}]"))


# Combinations

NESTEROV = ["--optimizer.nesterov", "true"]
MOMENTUM = ["--optimizer.momentum", "0.9"]
DAMPENING = ["--optimizer.dampening", "0.1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (NESTEROV, ["optimizer.nesterov = true", "momentum > 0", "set optimizer.momentum"]),
        (NESTEROV + MOMENTUM + DAMPENING, ["optimizer.dampening = 0.1", "Nesterov", "without dampening", "drop one"]),
        (DAMPENING, ["optimizer.dampening = 0.1", "no effect without momentum", "set optimizer.momentum"]),
        (
            [*NESTEROV, *MOMENTUM, "--optimizer.groups", '[{pattern = "*.bias", momentum = 0}]'],
            ["optimizer.nesterov = true", "group '*.bias'", "momentum > 0"],
        ),
        (
            [*NESTEROV, *MOMENTUM, "--optimizer.groups", '[{pattern = "*.bias", dampening = 0.2}]'],
            ["optimizer.dampening = 0.2", "group '*.bias'", "without dampening"],
        ),
        (
            [*DAMPENING, *MOMENTUM, "--optimizer.groups", '[{pattern = "*.bias", momentum = 0}]'],
            ["optimizer.dampening = 0.1", "group '*.bias'", "without momentum"],
        ),
    ],
)
def test_momentum_rules_of_sgd(refused: Refuse, arguments: list[str], words: list[str]) -> None:
    message = refused(*arguments)
    for word in words:
        assert word in message


@pytest.mark.parametrize("arguments", [NESTEROV + MOMENTUM, MOMENTUM, MOMENTUM + DAMPENING])
def test_what_the_momentum_rules_allow(load: Load, arguments: list[str]) -> None:
    assert isinstance(load(*arguments).optimizer, SGD)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("fused", ["true", "false", "none"])
@pytest.mark.parametrize("foreach", ["true", "false", "none"])
def test_fused_and_foreach(load: Load, refused: Refuse, name: str, fused: str, foreach: str) -> None:
    arguments = ["--optimizer.name", name, "--optimizer.fused", fused, "--optimizer.foreach", foreach]
    if fused == foreach == "true":
        message = refused(*arguments)
        for words in ("optimizer.fused", "optimizer.foreach", "set one of them"):
            assert words in message
    else:
        values = {"true": True, "false": False, "none": None}
        optimizer = load(*arguments).optimizer
        assert (optimizer.fused, optimizer.foreach) == (values[fused], values[foreach])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("more", [[], ["--optimizer.fused", "true"], ["--optimizer.foreach", "true"]])
def test_differentiable_is_refused(refused: Refuse, name: str, more: list[str]) -> None:
    message = refused("--optimizer.name", name, "--optimizer.differentiable", "true", *more)
    for words in ("optimizer.differentiable = true", "leaf", "leave it out"):
        assert words in message
    assert ("fused and differentiable exclude each other" in message) == ("--optimizer.fused" in more)


DECOUPLED = ["--optimizer.name", "adam", "--optimizer.decoupled_weight_decay", "true"]


def test_decoupled_without_decay(refused: Refuse) -> None:
    message = refused(*DECOUPLED)
    for words in ("optimizer.decoupled_weight_decay = true", "weight_decay is 0", "set optimizer.weight_decay"):
        assert words in message


@pytest.mark.parametrize(
    "more",
    [["--optimizer.weight_decay", "0.1"], ["--optimizer.groups", '[{pattern = "*", weight_decay = 0.1}]']],
)
def test_decoupled_with_decay(load: Load, more: list[str]) -> None:
    assert load(*DECOUPLED, *more).optimizer.name == "adam"


@pytest.mark.parametrize(("batch", "accumulate"), [(128, 3), (128, 256), (7, 2), (1, 2)])
def test_accumulate_must_divide_the_batch(refused: Refuse, batch: int, accumulate: int) -> None:
    message = refused("--training.batch_size", str(batch), "--training.accumulate", str(accumulate))
    for words in (f"training.accumulate = {accumulate}", f"training.batch_size = {batch}", "choose a divisor"):
        assert words in message


@pytest.mark.parametrize(("batch", "accumulate"), [(128, 1), (128, 128), (96, 3), (1, 1)])
def test_divisors_are_taken(load: Load, batch: int, accumulate: int) -> None:
    config = load("--training.batch_size", str(batch), "--training.accumulate", str(accumulate))
    assert (config.training.batch_size, config.training.accumulate) == (batch, accumulate)


@pytest.mark.parametrize("place", ["file", "command line"])
def test_two_kinds_of_clipping(refused: Refuse, place: str) -> None:
    if place == "file":
        message = refused(text=f"{SMALLEST}training.clip_norm = 1\ntraining.clip_value = 1\n")
    else:
        message = refused("--training.clip_norm", "1", "--training.clip_value", "1")
    for words in ("training.clip_norm", "training.clip_value", "choose one"):
        assert words in message


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


# Writing and reading back

COUNT = st.integers(1, 2**62)
FRACTION = st.floats(0, 1, exclude_max=True)
SHARE = st.floats(0, 1, exclude_min=True, exclude_max=True)
POSITIVE = st.floats(0, exclude_min=True, allow_infinity=False)
NOT_NEGATIVE = st.floats(0, allow_infinity=False)
BETAS = st.tuples(FRACTION, FRACTION)
LINE = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


COMMON = {
    "lr": NOT_NEGATIVE,
    "maximize": st.booleans(),
    "foreach": maybe(st.just(False)),
    "fused": maybe(st.booleans()),
}
ADAM = COMMON | {
    "betas": BETAS,
    "eps": NOT_NEGATIVE,
    "amsgrad": st.booleans(),
    "capturable": st.booleans(),
    "weight_decay": NOT_NEGATIVE,
    "groups": st.lists(
        st.builds(
            AdamGroup,
            pattern=LINE,
            lr=maybe(NOT_NEGATIVE),
            betas=maybe(BETAS),
            eps=maybe(NOT_NEGATIVE),
            weight_decay=maybe(NOT_NEGATIVE),
        ),
        max_size=2,
    ).map(tuple),
}
UNIT = st.sampled_from(["updates", "epochs"])
CONFIGS = st.builds(
    RunConfig,
    data=st.builds(
        DataConfig,
        source=st.sampled_from(["auto", "cifar10", "synthetic"]) | LINE.filter(bool).map(lambda path: f"folder:{path}"),
        root=maybe(LINE),
        download=st.booleans(),
        augment=st.booleans(),
        train_images=maybe(COUNT),
        test_images=maybe(COUNT),
    ),
    training=st.builds(
        TrainingConfig,
        epochs=COUNT,
        batch_size=COUNT,
        last_batch=st.sampled_from(["drop", "mask"]),
        eval_batch_size=COUNT,
        seed=st.integers(0, 2**63 - 1),
        clip_norm=maybe(POSITIVE),
        ema=maybe(SHARE),
        label_smoothing=FRACTION,
        compile=st.booleans(),
        deterministic=st.booleans(),
        world_size=maybe(COUNT),
        threads=maybe(COUNT),
        timeout_seconds=COUNT,
    ),
    optimizer=st.one_of(
        st.builds(
            SGD,
            **COMMON,
            momentum=SHARE,
            weight_decay=NOT_NEGATIVE,
            nesterov=st.booleans(),
            groups=st.lists(
                st.builds(SGDGroup, pattern=LINE, lr=maybe(NOT_NEGATIVE), momentum=maybe(SHARE)), max_size=2
            ).map(tuple),
        ),
        st.builds(Adam, **ADAM),
        st.builds(AdamW, **ADAM),
    ),
    schedule=st.one_of(
        st.builds(Constant),
        st.builds(Step, step_size=COUNT, gamma=POSITIVE, unit=UNIT),
        st.builds(MultiStep, milestones=st.lists(COUNT, min_size=1, max_size=3).map(tuple), gamma=POSITIVE, unit=UNIT),
        st.builds(Exponential, gamma=POSITIVE, unit=UNIT),
        st.builds(Cosine, warmup=COUNT, start_factor=SHARE, end_factor=FRACTION, unit=UNIT),
        st.builds(OneCycle, pct_start=SHARE, div_factor=st.floats(1, 1e300), final_div_factor=st.floats(1, 1e300)),
    ),
    precision=st.builds(
        PrecisionConfig,
        mode=st.sampled_from(["auto", "no", "tf32", "bf16", "fp16"]),
        force=st.booleans(),
        init_scale=POSITIVE,
        growth_interval=COUNT,
    ),
    checkpoint=st.builds(
        CheckpointConfig, every_steps=maybe(COUNT), every_minutes=maybe(POSITIVE), keep=COUNT, resume=LINE
    ),
    output=st.builds(
        OutputConfig, dir=maybe(LINE), quiet=st.booleans(), trackers=st.lists(LINE, max_size=2).map(tuple)
    ),
)


@settings(max_examples=40, deadline=None)
@given(config=CONFIGS)
def test_a_written_configuration_is_a_recipe_for_the_same(smallest: Path, config: RunConfig) -> None:
    path = smallest.parent / "written.toml"
    path.write_bytes(config.to_toml().encode())
    assert load_recipe(RunConfig, path) == config


def test_a_written_configuration_spells_out_the_defaults() -> None:
    written = tomllib.loads(RunConfig(optimizer=SGD()).to_toml())
    assert written["training"]["epochs"] == TrainingConfig().epochs
    assert written["optimizer"]["name"] == "sgd"
    assert written["schedule"] == {"name": "constant"}
    assert set(written) == set(RunConfig.model_fields)


def test_a_path_that_is_not_utf_8(load: Load) -> None:
    """Python hands such an argument over with surrogates; to refuse it is right, to write it is too."""
    try:
        config = load("--output.dir", "caf\udce9")
    except BadInput:
        return
    config.to_toml().encode()


# Help

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
        rf"^  --{section}\.{field} = (?P<default>.+?)   \((?P<accepts>.+)\)\n(?P<meaning>(?:      .*\n?)+)",
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
        ("training.epochs", "integer >= 1"),
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
