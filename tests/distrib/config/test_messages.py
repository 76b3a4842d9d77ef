"""Tests what a person is told who wrote a wrong value, or a name that does not exist."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from distrib.checkpoint.config import CheckpointConfig
from distrib.config.fields import all_fields
from distrib.config.load import load as load_recipe
from distrib.config.messages import telling_origins
from distrib.errors import BadInput
from distrib.job.run_folder import OutputConfig
from distrib.optim.optimizer import SGD
from distrib.training.config import TrainingConfig
from distrib.training.recipe import RunConfig
from tests.distrib.recipes import OPTIMIZERS, SCHEDULES, SMALLEST, Refuse

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
    ("data.train_images", "10_000_000_000", "10000000000", "less than or equal to 10000000"),
    ("training.threads", "10_000_000_000", "10000000000", "less than or equal to 1024"),
    ("training.epochs", "1" + "0" * 400, "...", "less than or equal to 1000000000"),
    ("training.timeout_seconds", "10_000_000_000_000", "10000000000000", "less than or equal to 1000000000"),
    ("crosscheck.coordinates", "10_000_000_000", "10000000000", "less than or equal to 1000000"),
    ("precision.growth_interval", "10_000_000_000", "10000000000", "less than or equal to 1000000000"),
    ("precision.init_scale", "1e300", "1e+300", "less than or equal to 1"),
    ("precision.init_scale", "1e400", "inf", "finite"),
    ("optimizer.lr", "1e39", "1e+39", "less than or equal to 1"),
]
TEXTS = [
    ("training.last_batch", "keep", "'drop' or 'mask'"),
    ("training.last_batch", "Mask", "'drop' or 'mask'"),
    ("precision.mode", "fp8", "'auto', 'no', 'tf32', 'bf16' or 'fp16'"),
    ("model.name", "resnet", "article, resnet18, speednet or package.module:factory"),
    ("data.source", "cifar", "auto, cifar10, synthetic, folder:PATH, npz:PATH, parquet:PATH or hf:OWNER/NAME"),
    ("data.source", "npz:", "auto, cifar10, synthetic, folder:PATH, npz:PATH, parquet:PATH or hf:OWNER/NAME"),
    ("data.source", "folder:", "auto, cifar10, synthetic, folder:PATH, npz:PATH, parquet:PATH or hf:OWNER/NAME"),
    ("data.source", "", "auto, cifar10, synthetic, folder:PATH, npz:PATH, parquet:PATH or hf:OWNER/NAME"),
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
        (["--output.trackers", "1"], SMALLEST, "array|list"),
        (["--schedule.name", "multistep", "--schedule.milestones", "3"], SMALLEST, "array|list"),
        ([], f"training = 3\n{SMALLEST}", "table"),
        ([], "optimizer = 3\n", "table"),
    ],
)
def test_messages_speak_toml(refused: Refuse, arguments: list[str], text: str, word: str) -> None:
    message = refused(*arguments, text=text)
    assert re.search(word, message)
    assert not re.search("tuple|dictionary|instance", message)


@pytest.mark.parametrize("place", ["recipe.toml", "the command line"])
@pytest.mark.parametrize(
    ("lines", "key"),
    [
        (["optimizer.nesterov = true"], "optimizer.nesterov"),
        (["training.clip_norm = 1", "training.clip_value = 1"], "training.clip_norm"),
        (["training.accumulate = 3"], "training.accumulate"),
        (["optimizer.fused = true", "optimizer.foreach = true"], "optimizer.fused"),
        (["optimizer.differentiable = true"], "optimizer.differentiable"),
        (["crosscheck.live = 'stop'"], "crosscheck.live"),
        (["schedule.name = 'poly'"], "schedule.name"),
        (["schedule.name = 'step'"], "schedule.name"),
        (["optimizer.groups = [{lr = 0.1}]"], "optimizer.groups.0.pattern"),
        (["optimizer.groups = 3"], "optimizer.groups"),
    ],
)
def test_rules_and_what_is_missing_say_where_too(refused: Refuse, place: str, lines: list[str], key: str) -> None:
    if place == "recipe.toml":
        message = refused(text=SMALLEST + "\n".join(lines))
    else:
        message = refused(*(f"--{line}".replace(" = ", "=", 1).replace("'", "") for line in lines))
    assert key in message
    assert re.search(rf"from (\S*/)?{re.escape(place)}\b", message), message
    assert "from the command line" not in message or place == "the command line"


def test_a_rule_over_both_says_which_is_which(refused: Refuse) -> None:
    message = refused("--training.clip_norm=1", text=SMALLEST + "training.clip_value = 1\n")
    assert re.search(
        r"; training\.clip_norm is from the command line, training\.clip_value is from \S+recipe\.toml$", message
    )


def test_a_missing_name_says_in_which_file(refused: Refuse) -> None:
    assert re.search(r"set it to one of sgd, adam, adamw, in \S+recipe\.toml or by --optimizer\.name", refused(text=""))


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("training.batch_size = 128 is more than the images: lower it", "; training.batch_size is from a.toml"),
        ("schedule.warmup = 2 epochs: raise training.epochs", "; schedule.warmup is the default"),
        ("no parameter for optimizer.groups", "; optimizer.groups is from the command line"),
        ("model.options = {widths: [8]}: it raised", "; model.options is from the command line"),
        ("a.b = 3 is no key of ours, and output.dir has its default", ""),
    ],
)
def test_what_only_the_run_finds_out_says_where_too(message: str, told: str) -> None:
    origin = {"training.batch_size": "a.toml"} | dict.fromkeys(
        ("optimizer.groups", "model.options.widths"), "the command line"
    )
    with (
        pytest.raises(BadInput) as caught,
        telling_origins(origin, [*origin, "schedule.warmup", "training.epochs", "output.dir", "model.options"]),
    ):
        raise BadInput(message)
    assert str(caught.value) == message + told


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
        ("training.lr", "optimizer.lr"),
        ("training.weightdecay", "optimizer.weight_decay"),
        ("optimizer.clip_norm", "training.clip_norm"),
        ("optimizer.batch_size", "training.batch_size"),  # not optimizer.betas
        ("data.dir", "output.dir"),
        ("model.seed", "training.seed"),
        ("checkpoint.accumulate", "training.accumulate"),
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
