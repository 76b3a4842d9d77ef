"""Rules over several keys of a recipe, and a configuration written and read back."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distrib.checkpoint.config import CheckpointConfig
from distrib.config.load import load as load_recipe
from distrib.data.config import DataConfig
from distrib.errors import BadInput
from distrib.job.run_folder import OutputConfig
from distrib.optim.optimizer import SGD, Adam, AdamGroup, AdamW, SGDGroup
from distrib.optim.precision import PrecisionConfig
from distrib.optim.schedule import Constant, Cosine, Exponential, MultiStep, OneCycle, Step
from distrib.training.config import TrainingConfig
from distrib.training.recipe import RunConfig
from tests.distrib.recipes import OPTIMIZERS, SMALLEST, Load, Refuse

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


RECOMPUTED = ["--crosscheck.record", "true", "--crosscheck.gradient_steps", "[2]"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--training.compile", "true"], "cannot be watched with training.compile = true; leave one of the two out"),
        (["--training.cuda_graph", "true"], "cannot be watched with training.cuda_graph = true"),
        (
            ["--model.name", "resnet18"],
            "has the network article, and model.name = resnet18; set crosscheck.gradient_steps = []",
        ),
        (["--data.mixup", "0.5"], "takes one label an image, and with data.mixup = 0.5 an image has two"),
        (["--data.cutmix", "0.5"], "takes one label an image, and with data.cutmix = 0.5 an image has two"),
    ],
)
def test_what_the_gradient_cannot_be_computed_again_of(
    refused: Refuse, load: Load, arguments: list[str], words: str
) -> None:
    message = refused(*RECOMPUTED, *arguments)
    assert "crosscheck.gradient_steps = [2]: " in message
    assert words in message
    load(*arguments)  # without a record, or without such steps, there is nothing to refuse
    load(*arguments, *RECOMPUTED[2:])
    load(*arguments, *RECOMPUTED[:2])


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


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ("--training.compile=true", "training.compile = true"),
        ("--training.accumulate=2", "training.accumulate = 2"),
        ("--training.last_batch=mask", "training.last_batch = mask"),
    ],
)
def test_what_a_cuda_graph_excludes(load: Load, refused: Refuse, other: str, told: str) -> None:
    message = refused("--training.cuda_graph", other)
    for words in (f"training.cuda_graph = true with {told}: ", "leave one of the two out"):
        assert words in message
    assert load("--training.cuda_graph").training.cuda_graph
    assert not load(other).training.cuda_graph


# Writing and reading back

COUNT = st.integers(1, 10**9)
IMAGES = st.integers(1, 10**7)
FRACTION = st.floats(0, 1, exclude_max=True)
SHARE = st.floats(0, 1, exclude_min=True, exclude_max=True)
POSITIVE = st.floats(0, 1e30, exclude_min=True)
NOT_NEGATIVE = st.floats(0, 1e30)
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
        train_images=maybe(IMAGES),
        test_images=maybe(IMAGES),
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
        threads=maybe(st.integers(1, 1024)),
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
        st.builds(OneCycle, pct_start=SHARE, div_factor=st.floats(1, 1e30), final_div_factor=st.floats(1, 1e30)),
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


def test_the_keys_that_do_not_have_their_defaults() -> None:
    config = RunConfig(optimizer=SGD(lr=0.3), schedule=OneCycle(), training=TrainingConfig(epochs=3, ema=0.9))
    assert config.training.epochs == TrainingConfig().epochs, "a default that is spelled out is one as well"
    assert config.non_default_keys() == {"optimizer.lr", "training.ema"}


def test_a_path_that_is_not_utf_8(load: Load) -> None:
    """Python hands such an argument over with surrogates; to refuse it is right, to write it is too."""
    try:
        config = load("--output.dir", "caf\udce9")
    except BadInput:
        return
    config.to_toml().encode()
