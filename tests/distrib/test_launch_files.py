"""Recipes and launch files by their bare names, from any folder."""

from pathlib import Path

import pytest

from distrib.config.load import read_toml
from distrib.errors import BadInput
from distrib.launch_files import find, find_recipe, recipe_names
from tests.support import RECIPES, ROOT


def test_the_names_are_those_of_launch() -> None:
    assert recipe_names() == sorted(path.stem for path in RECIPES.iterdir())


@pytest.mark.parametrize("name", ["quickstart", "quickstart.toml"])
def test_a_bare_name_is_found_from_any_folder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe(name) == RECIPES / "quickstart.toml"


def test_a_path_that_exists_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("quickstart").write_text("")
    assert find_recipe("quickstart") == Path("quickstart")
    assert find_recipe(str(tmp_path / "quickstart")) == tmp_path / "quickstart"


@pytest.mark.parametrize("given", ["quickstrat", "nowhere/article.toml", "cpu-2", "a\0b"])
def test_an_unknown_name_lists_the_recipes(given: str) -> None:
    with pytest.raises(BadInput) as caught:
        find_recipe(given)
    for name in recipe_names():
        assert name in str(caught.value)
    assert ("did you mean quickstart?" in str(caught.value)) == (given == "quickstrat")


@pytest.mark.parametrize("given", ["", "x" * 5000])
def test_what_the_system_does_not_take_for_a_file_is_left_to_the_reader(given: str) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_toml(find_recipe(given))


def test_an_option_in_the_place_of_the_recipe() -> None:
    with pytest.raises(BadInput, match=r"argument '--training\.epochs' .*: the recipe comes first"):
        find_recipe("--training.epochs")


@pytest.mark.parametrize(
    ("name", "path"),
    [("cpu-2", "cpu-2.yaml"), ("auto.sh", "auto.sh"), ("quickstart", "recipes/quickstart.toml")],
)
def test_every_file_is_found(name: str, path: str) -> None:
    assert find(name) == ROOT / "launch" / path


def test_a_file_that_does_not_exist_lists_those_that_do() -> None:
    with pytest.raises(BadInput, match=r"did you mean multi-gpu\? launch/ holds .*cpu-2.*quickstart"):
        find("multigpu")
