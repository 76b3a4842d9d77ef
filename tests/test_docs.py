"""Every link, path, recipe and key that the documents name exists."""

import re
from pathlib import Path

import pytest

from distrib.config.load import load
from distrib.launch_files import find_recipe
from distrib.training.recipe import RunConfig
from tests.support import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_exist(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    paths = re.findall(r"`((?:launch|distrib|crosscheck|tests|docs|slurm)/[\w./-]+)`", text)
    paths += re.findall(r"(launch/[\w/-]+\.(?:yaml|toml|sh))", text)
    for name in [*links, *paths]:
        base = document.parent if name in links else ROOT
        assert (base / name).exists(), f"{document.name} names {name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_use_keys_that_exist(document: Path) -> None:
    overrides = r"((?:[^\S\n]+--\w+\.\w+[= ]\S+)*)"
    text = document.read_text()
    for recipe, given in re.findall(rf"distrib\.train (\S+\.toml){overrides}", text):
        load(RunConfig, ROOT / recipe, given.split())
    for recipe, given in re.findall(rf"twinstep (?:train|bench) ([a-z][\w-]*){overrides}", text):
        load(RunConfig, find_recipe(recipe), given.split())
