"""What of a recipe stays when the command line chooses another optimizer or schedule, and what is said of the rest."""

from collections.abc import Callable
from pathlib import Path

import pytest

from distrib.config.load import Resolved, resolve
from distrib.errors import BadInput
from distrib.optim.optimizer import SGD, Adam, AdamGroup, AdamW
from distrib.optim.schedule import Constant, Exponential, MultiStep
from distrib.training.recipe import RunConfig
from tests.distrib.recipes import Refuse

Resolve = Callable[..., Resolved[RunConfig]]

PLAIN_SGD = "[optimizer]\nname = 'sgd'\nlr = 0.02\nmomentum = 0.9\nnesterov = true\n"
ADAM = "[optimizer]\nname = 'adam'\nlr = 0.003\nbetas = [0.8, 0.9]\nweight_decay = 0.1\ndecoupled_weight_decay = true\n"


@pytest.fixture
def resolved(tmp_path: Path) -> Resolve:
    def from_text(*overrides: str, text: str) -> Resolved[RunConfig]:
        path = tmp_path / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        return resolve(RunConfig, path, overrides)

    return from_text


def test_adam_over_a_recipe_of_sgd(resolved: Resolve) -> None:
    """What is left out is named, and so is the learning rate that the run has instead."""
    found = resolved("--optimizer.name", "adam", text=PLAIN_SGD)
    assert found.config.optimizer == Adam()
    [note] = found.notes
    for words in (
        "optimizer.name = adam (from the command line) in place of sgd (from ",
        "recipe.toml): lr = 0.02, momentum = 0.9, nesterov = true were meant for sgd",
        "; adam has its default, optimizer.lr = 0.001",
    ):
        assert words in note


@pytest.mark.parametrize("lr_first", [True, False])
def test_a_learning_rate_of_the_command_line_counts(resolved: Resolve, lr_first: bool) -> None:
    words = [("--optimizer.lr", "0.01"), ("--optimizer.name", "adamw")]
    found = resolved(*sum(words if lr_first else words[::-1], ()), text=PLAIN_SGD)
    assert found.config.optimizer == AdamW(lr=0.01)
    assert " lr" not in found.notes[0]
    assert "default" not in found.notes[0]


def test_what_means_the_same_stays(resolved: Resolve) -> None:
    shared = PLAIN_SGD + "maximize = true\nforeach = true\n"
    assert resolved("--optimizer.name", "adam", text=shared).config.optimizer == Adam(maximize=True, foreach=True)
    groups = ADAM + "groups = [{pattern = '*.bias', eps = 1e-6}]\n"
    found = resolved("--optimizer.name", "adamw", text=groups)
    stays = AdamW(lr=0.003, betas=(0.8, 0.9), groups=(AdamGroup(pattern="*.bias", eps=1e-6),))
    assert found.config.optimizer == stays
    assert "adamw has its default, optimizer.weight_decay = 0.01" in found.notes[0]


def test_groups_of_another_kind_are_left_out(resolved: Resolve) -> None:
    found = resolved("--optimizer.name=sgd", text=ADAM + "groups = [{pattern = '*.bias', eps = 1e-6}]\n")
    assert found.config.optimizer == SGD()
    assert "groups = [{'eps': 1e-06, 'pattern': '*.bias'}]" in found.notes[0]
    assert found.notes[0].endswith("; sgd has its defaults, optimizer.lr = 0.001, optimizer.weight_decay = 0.0")


def test_another_schedule(resolved: Resolve) -> None:
    """Its keys have names of their own, or other meanings under the same name. The optimizer keeps its rate."""
    steps = "[schedule]\nname = 'step'\nstep_size = 2\ngamma = 0.5\nunit = 'updates'\n"
    found = resolved("--schedule.name=exponential", "--schedule.gamma=0.9", text=PLAIN_SGD + steps)
    assert found.config.schedule == Exponential(gamma=0.9)
    assert found.config.optimizer.lr == 0.02
    assert "step_size = 2, unit = 'updates' were meant for step" in found.notes[0]
    found = resolved("--schedule.name=multistep", "--schedule.milestones=[1]", text=PLAIN_SGD + steps)
    assert found.config.schedule == MultiStep(milestones=(1,))
    assert "; multistep has its defaults, schedule.gamma = 0.1, schedule.unit = 'epochs'" in found.notes[0]


def test_both_at_once_are_two_notes(resolved: Resolve) -> None:
    cosine = "[schedule]\nname = 'cosine'\nwarmup = 1\n"
    found = resolved("--schedule.name=constant", "--optimizer.name=adam", text=PLAIN_SGD + cosine)
    assert (found.config.optimizer, found.config.schedule) == (Adam(), Constant())
    assert [note.split()[1] for note in found.notes] == ["optimizer.name", "schedule.name"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--optimizer.name=sgd"], PLAIN_SGD),
        (["--optimizer.lr=0.1"], PLAIN_SGD),
        (["--optimizer.name=adam"], "optimizer.name = 'sgd'\n"),
        (["--schedule.name=onecycle"], PLAIN_SGD),
        (["--optimizer.name=adam"], "[optimizer]\nlr = 0.1\n"),  # a rate for whatever optimizer is chosen
        (["--optimizer.name=adam"], "[optimizer]\nname = 'adagrad'\nlr = 0.1\n"),
    ],
)
def test_there_is_nothing_to_say(resolved: Resolve, arguments: list[str], text: str) -> None:
    assert resolved(*arguments, text=text).notes == []


def test_the_same_keys_on_the_command_line_are_errors(refused: Refuse) -> None:
    message = refused("--optimizer.name=adam", "--optimizer.momentum=0.5", text=PLAIN_SGD)
    assert (
        "unknown key optimizer.momentum (from the command line): it belongs to sgd, and optimizer.name is adam"
        in message
    )


@pytest.mark.parametrize("chosen", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("mixed", ["betas = [0.8, 0.9]", "groups = [{pattern = '*', eps = 1e-6}]", "lrr = 1"])
def test_a_recipe_that_mixes_optimizers_is_an_error(refused: Refuse, chosen: str, mixed: str) -> None:
    message = refused(f"--optimizer.name={chosen}", text=PLAIN_SGD + mixed)
    assert "unknown key optimizer." in message
    assert "recipe.toml)" in message


def test_wrong_values_of_what_stays_are_still_errors(refused: Refuse) -> None:
    assert "optimizer.fused = 3 (from " in refused("--optimizer.name=adam", text=PLAIN_SGD + "fused = 3\n")


def test_a_recipe_without_a_table_is_told_as_before(resolved: Resolve) -> None:
    with pytest.raises(BadInput, match=r"optimizer\.name from the command line: optimizer is not"):
        resolved("--optimizer.name=adam", text="optimizer = 3\n")
