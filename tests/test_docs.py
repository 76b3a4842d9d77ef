"""Every link, path, recipe, key, target and program that the documents name exists, and the site is built of them strictly.

`tests/matrix/test_documents.py` runs the commands themselves.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from distrib.config.load import load
from distrib.launch_files import find_recipe
from distrib.training.recipe import RunConfig
from docs import make_configuration
from tests.documents import DOCUMENTS, commands, fenced_commands, name, scripts
from tests.support import ROOT
from twinstep.command import COMMANDS


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_and_paths_exist(document: Path) -> None:
    text = document.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    paths = re.findall(r"`((?:launch|distrib|crosscheck|tests|docs|slurm)/[\w./-]+)`", text)
    paths += re.findall(r"(launch/[\w/-]+\.(?:yaml|toml|sh))", text)
    for link in [*links, *paths]:
        base = document.parent if link in links else ROOT
        assert (base / link).exists(), f"{document.name} names {link}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_commands_use_what_exists(document: Path) -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in commands(document):
        words = command.split()
        if words[0] == "make":
            assert next(word for word in words[1:] if "=" not in word) in targets, command
        if words[0] == "twinstep" and not words[1].startswith("-"):
            assert words[1] in COMMANDS, command
        if words[0] == "sbatch":
            assert any((ROOT / word).is_file() for word in words[1:] if word.startswith("slurm/")), command


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_commands_use_keys_that_exist(document: Path) -> None:
    overrides = r"((?:[^\S\n]+--\w+(?:\.\w+)+(?:[= ](?!--)[^\s)`]+)?)*)"
    text = document.read_text().replace("\\\n", " ")
    for recipe, given in re.findall(
        rf"(?:distrib\.train|train\.sbatch|twinstep (?:train|bench)) ([a-z][\w./-]*){overrides}", text
    ):
        load(RunConfig, find_recipe(recipe), given.split())


def test_no_two_trainings_share_a_folder() -> None:
    trainings: dict[str, set[str]] = {}
    for document in DOCUMENTS:
        lines = [*commands(document), *"".join(scripts(document)).splitlines()]
        for line in lines:
            for folder in re.findall(r"""--output\.dir (\S+)|"output\.dir": "([^"]+)\"""", line):
                trainings.setdefault("".join(folder), set()).add(line.strip())
    assert len(trainings) > 10
    shared = {folder: lines for folder, lines in trainings.items() if len(lines) > 1}
    assert not shared, "the second of them would be refused, because the folder holds another run"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_every_line_of_a_shell_block_is_a_command(document: Path) -> None:
    assert len(fenced_commands(document)) <= len(commands(document)), "tests/documents.py does not know its program"


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_python_is_python(document: Path) -> None:
    for script in scripts(document):
        compile(script, name(document), "exec")


def test_the_page_of_all_keys_is_of_this_version() -> None:
    written = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert written == make_configuration.page(), "python docs/make_configuration.py writes it"


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "check_optimizer" in (tmp_path / "api/crosscheck.html").read_text(encoding="utf-8")
    assert ">distrib.Stopped<" in re.sub(r"\s", "", (tmp_path / "api/distrib.html").read_text(encoding="utf-8"))
    assert (tmp_path / "contributing.html").is_file()
    assert (tmp_path / "search/search_index.js").is_file(), "search needs it where the site is read from a folder"
    external = [
        (page.name, link)
        for page in tmp_path.rglob("*.html")
        for link in re.findall(
            r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page.read_text(encoding="utf-8")
        )
        if 'rel="canonical"' not in link
    ]
    assert not external, "the site fetches nothing"
