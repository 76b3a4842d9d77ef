"""Recipes written, loaded and refused, for the tests of the configuration and of the sections."""

from pathlib import Path

import pytest

from distrib.config.load import load as load_recipe
from distrib.errors import BadInput
from distrib.training.recipe import RunConfig
from tests.distrib.recipes import SMALLEST, Load, Refuse


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
