"""Tests what bash offers at Tab."""

import subprocess
from pathlib import Path

import pytest

from distrib.launch_files import recipe_names
from twinstep.command import COMMANDS
from twinstep.completion import script


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "twinstep.bash"
    said = (
        "usage: … [--nothing]\n  -h, --help  …\n  --json FILE  as --path has it\n  --linger_on SECONDS, --every N\n  "
        "--section.key"
    )
    helps = dict.fromkeys(COMMANDS, said)
    path.write_text(script("bash", helps))
    return path


def offered(file: Path, *words: str) -> set[str]:
    """Return what is offered when the last word is to be completed."""
    line = " ".join(f"'{word}'" for word in ("twinstep", *words))
    ask = (
        f"source {file}; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _twinstep; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    done = subprocess.run(["/bin/bash", "-c", ask], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([""], set(COMMANDS)),
        (["re"], {"replay", "report", "record"}),
        (["train", "q"], {"quickstart"}),
        (["train", ""], set(recipe_names())),
        (["train", "quickstart", "--optimizer.m"], {"--optimizer.maximize", "--optimizer.momentum"}),
        (["train", "quickstart", "--optimizer.name", ""], {"sgd", "adam", "adamw"}),
        (["train", "quickstart", "--precision.mode", ""], {"auto", "no", "tf32", "bf16", "fp16"}),
        (["train", "quickstart", "--crosscheck.budget", ""], {"light", "default", "full"}),
        (["train", "quickstart", "--training.compile", "t"], {"true"}),
        (["train", "quickstart", "--data.root", "/"], set[str]()),  # bash then offers files
        (["replay", "runs/a", "--j"], {"--json"}),
        (["watch", "--"], {"--help", "--json", "--linger_on", "--every"}),
    ],
)
def test_offers(file: Path, words: list[str], expected: set[str]) -> None:
    assert offered(file, *words) == expected


def test_zsh_runs_the_completions_of_bash() -> None:
    assert "bashcompinit" in script("zsh", {})
