"""Tests the command `twinstep`: what it hands on to whom, and what it says itself."""

import os
import subprocess
import sys
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TextIO

import pytest

from tests.support import JAX, ROOT, run_without
from twinstep.command import COMMANDS, main, versions

pytestmark = pytest.mark.usefixtures("signals_put_back")
HEAVY = ("torch", "jax", "numpy", "pydantic", "accelerate", "tqdm")


def twinstep(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "twinstep", *arguments]
    environment = {"PYTHONPATH": str(ROOT), "COLUMNS": "80", "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what a refused command says on standard error."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["--path", "cpu-2"], ["nonsense"], []])
def test_nothing_heavy_is_imported_before_a_command_is_known(arguments: list[str]) -> None:
    """To import torch takes seconds. A module that is not installed cannot have been imported."""
    script = (
        f"from twinstep.command import main\ntry:\n    main({arguments})\nexcept SystemExit:\n    pass\nprint('ended')"
    )
    result = run_without(HEAVY, script)
    assert result.stdout.endswith("ended\n"), result.stderr


def test_the_help_fits_80_columns_and_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    said = twinstep("--help").stdout
    assert max(map(len, said.splitlines())) <= 80
    for name, command in COMMANDS.items():
        assert f"\n  {name} " in said
        assert command.summary in said
    assert main([]) == 2
    assert "usage: twinstep COMMAND" in capsys.readouterr().err


def test_versions() -> None:
    for package in ("twinstep", "torch", "jax"):
        assert f"{package} {metadata.version(package)}" in versions()


def test_versions_of_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", lacks)
    assert "torch not installed, jax not installed" in versions()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian", "quickstart"], "there is no command 'trian': did you mean train?"),
        (
            ["zzz"],
            "there are train, sweep, launch, doctor, compare, page, predict, export, bench, replay, report, watch, record, atlas",
        ),
        (["--completion", "fish"], "choose from"),
        (["--vers"], "unrecognized arguments: --vers"),
    ],
)
def test_mistakes_name_the_way_out(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert words in refusal(capsys, *arguments)


def closed_pipe() -> TextIO:
    read, write = os.pipe()
    os.close(read)
    return os.fdopen(write, "w", encoding="utf-8")


def test_a_reader_that_has_gone_is_no_error() -> None:
    """As in `twinstep --version | true`: Python itself would print a traceback, or an exception that it ignores."""
    command, environment = [sys.executable, "-m", "twinstep", "--version"], {"PYTHONPATH": str(ROOT)}
    with closed_pipe() as pipe:
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--path", "cpu-2"], *([name, "--help"] for name in COMMANDS)], ids=" ".join
)
def test_what_is_asked_for_ends_alike_where_it_cannot_be_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """A reader that has gone has read enough, and a full disk is one line."""
    for output, ends in ((closed_pipe(), (0, 0)), (Path("/dev/full").open("w"), (2, 1))):  # noqa: SIM115
        with output, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", output)
            try:
                code = main(arguments)
            except SystemExit as end:
                code = end.code
        said = capsys.readouterr().err
        assert (code, said.count("\n")) == ends, said
        assert said.startswith("bad input: standard output") == (code == 2)


def test_a_path_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--path", "cpu2"]) == 2
    assert "did you mean cpu-2?" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_under_this_name_that_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with suppress(SystemExit):
        main([name, "--help"])
    said = capsys.readouterr().out
    assert said.startswith(f"usage: twinstep {name} ")
    assert "python -m" not in said
    assert "`" not in said or name == "train"  # whose keys are explained in the words of their docstrings
    assert max(map(len, said.splitlines())) <= 80


def test_completions_have_the_options_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--completion", "bash"]) == 0
    said = capsys.readouterr().out
    for words in (
        "watch) words='--every --help --html --json --junit --linger --timeout'",
        "compare) words='--help --html --json'",
        "export) words='--best --help --network --to'",
        (
            "launch) words='--config_file --machine_rank --main_process_ip --main_process_port --max_restarts "
            "--mixed_precision --num_machines --num_processes'"
        ),
        "report) words='--help --html --json --junit --require'",
        "train) words='--help --dry-run --data.source ",
    ):
        assert words in said


def test_arguments_and_exit_codes_are_handed_on(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["replay", str(tmp_path / "nowhere")]) == 2
    assert str(tmp_path / "nowhere") in capsys.readouterr().err
    assert main(["compare", str(tmp_path)]) == 2
    assert "give two or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "arguments", "words"),
    [
        (("torch",), ["train", "quickstart"], "twinstep train needs torch"),
        (("tqdm",), ["train", "quickstart"], "twinstep train needs tqdm"),
        (("torch",), ["bench"], "twinstep bench needs torch"),
        (("torch",), ["--completion", "bash"], "twinstep --completion needs torch"),
        (JAX, ["replay", "."], "replay needs jax"),
    ],
)
def test_what_is_not_installed_is_named_with_the_pip_line(
    missing: tuple[str, ...], arguments: list[str], words: str
) -> None:
    result = run_without(missing, f"import sys\nfrom twinstep.command import main\nsys.exit(main({arguments}))")
    extra = "replay" if missing == JAX else "train"
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("bad input: ")
    for word in (words, f"pip install '.[{extra}]' in a clone of Twinstep"):
        assert word in result.stderr


def test_a_module_of_ours_that_is_missing_is_a_fault() -> None:
    result = run_without(["distrib"], "from twinstep.command import main\nmain(['train', 'quickstart'])")
    assert "ModuleNotFoundError: No module named 'distrib" in result.stderr


def test_train_shows_one_section_and_lists_the_recipes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--help", "schedule"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("[schedule] name = constant")
    assert "[optimizer]" not in shown
    for arguments, words in (
        (["quickstrat"], "did you mean quickstart? launch/recipes/ holds adam-onecycle"),
        (["--help", "shedule"], "did you mean schedule?"),
        ([], "no recipe: give one, such as quickstart"),
        (["--training.epochs", "1"], "the recipe comes first"),
    ):
        assert main(["train", *arguments]) == 2
        assert words in capsys.readouterr().err
