"""`python -m distrib.compare`: runs side by side, and where they part."""

import json
from pathlib import Path
from typing import Any

import pytest

from distrib.compare.__main__ import main
from tests.support import SMALL, train_well

CONFIG = '[optimizer]\nname = "{name}"\nlr = 0.02\n\n[training]\nepochs = 2\n'


def make_run(folder: Path, *, losses: list[float], name: str = "sgd", summary: bool = True, **others: Any) -> Path:
    """Write what a run of one epoch leaves, as far as it is compared. `others`: quantities of each step."""
    folder.mkdir()
    took = len(folder.name)  # seconds, which differ from run to run and part nobody
    lines = [
        {"kind": "step", "step": k, "epoch": 1, "loss": loss, "seconds": took, **others}
        for k, loss in enumerate(losses, start=1)
    ]
    epoch = {
        "kind": "epoch",
        "step": len(losses),
        "epoch": 1,
        "test_accuracy": 0.5,
        "test_loss": 1.5,
        "train_loss": 1.25,
    }
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, epoch]) + '{"kind": "st')
    (folder / "config.toml").write_text(CONFIG.format(name=name))
    if summary:
        told = {"test_accuracy": 0.75, "images_per_second": 1234.5, "crosscheck": {"verdict": "match"}}
        (folder / "summary.json").write_text(json.dumps(told))
    return folder


def compare(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_runs_that_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = make_run(tmp_path / "one", losses=[2.0, 1.5, float("nan")])
    other = make_run(tmp_path / "other", losses=[2.0, 1.5, float("nan")])
    code, out, err = compare(capsys, one, other)
    assert (code, err) == (0, "")
    assert "configuration: the same" in out
    assert out.splitlines()[-1] == f"{one} and {other}: the same in all 3 steps that both have"


def test_real_runs_part_by_what_they_computed_and_not_by_how_long_it_took(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, world_size in (("one", 1), ("again", 1), ("two", 2)):
        train_well(tmp_path / name, *SMALL, world_size=world_size)
    code, out, _ = compare(capsys, *(tmp_path / name for name in ("one", "again", "two")), "--json")
    assert code == 0
    partings = json.loads(out)["partings"]
    nothing = {"first_difference": None, "first_beyond_thousandth": None}
    assert partings[str(tmp_path / "again")] == {"common_steps": 20, **nothing}
    two = partings[str(tmp_path / "two")]
    assert two["first_difference"] is None or two["first_difference"]["quantity"] in ("loss", "gradient_norm")
    assert two["first_beyond_thousandth"] is None, "one process and two take the same steps on the same images"


def test_what_they_came_to_and_what_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    one = make_run(Path("one"), losses=[2.0])
    other = make_run(Path("other"), losses=[2.0], name="adam", summary=False)
    _, out, _ = compare(capsys, one, other)
    rows = [line.split() for line in out.splitlines()]
    assert rows[1] == ["one", "75.00%", "1.5000", "1.2500", "1", "1234", "match"]
    assert rows[2] == ["other", "50.00%", "1.5000", "1.2500", "1", "-", "-"], "the last epoch stands in for a summary"
    assert ["optimizer.name", "sgd", "adam"] in rows
    assert "optimizer.lr" not in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_a_summary_that_is_damaged_is_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = make_run(tmp_path / "one", losses=[2.0]), make_run(tmp_path / "other", losses=[2.0])
    (other / "summary.json").write_text('{"test_accur')
    note = f"note: {other}/summary.json cannot be read, so that the last epoch stands in for it in tables"
    assert note in compare(capsys, one, other)[1].splitlines()
    _, out, err = compare(capsys, one, other, "--json", "--html", tmp_path / "page.html")
    assert (json.loads(out)["runs"][str(other)], err) == ({}, f"{note}\n")
    assert "other/summary.json cannot be read" in (tmp_path / "page.html").read_text()


def test_the_first_step_at_which_they_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = make_run(tmp_path / "one", losses=[2.0, 1.5, 1.25], lr=0.1)
    rounded = make_run(tmp_path / "rounded", losses=[2.0, 1.5000001, 1.25], lr=0.1)
    wrong = make_run(tmp_path / "wrong", losses=[2.0, 1.5000001, 1.3], lr=0.1)
    code, out, _ = compare(capsys, one, rounded, wrong, "--json")
    assert code == 0
    partings = json.loads(out)["partings"]
    exact = {"step": 2, "quantity": "loss", "first": 1.5, "other": 1.5000001}
    assert partings[str(rounded)] == {"common_steps": 3, "first_difference": exact, "first_beyond_thousandth": None}
    assert partings[str(wrong)]["first_difference"] == exact
    assert partings[str(wrong)]["first_beyond_thousandth"] == {**exact, "step": 3, "first": 1.25, "other": 1.3}
    _, out, _ = compare(capsys, one, rounded, wrong)
    assert "step 2, loss: 1.5 and 1.5000001; never by more than a thousandth, so this may be rounding" in out
    assert "step 2, loss: 1.5 and 1.5000001; by more than a thousandth at step 3, loss: 1.25 and 1.3" in out


def test_json_has_null_for_what_an_older_summary_calls_nan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = make_run(tmp_path / "one", losses=[2.0]), make_run(tmp_path / "other", losses=[2.0])
    (one / "summary.json").write_text('{"test_accuracy": 0.1, "test_loss": NaN}')
    _, out, _ = compare(capsys, one, other, "--json")
    assert json.loads(out, parse_constant=pytest.fail)["runs"][str(one)]["test_loss"] is None


def test_a_quantity_that_only_one_has_parts_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = make_run(tmp_path / "one", losses=[2.0])
    other = make_run(tmp_path / "other", losses=[2.0], loss_scale=1024.0)
    assert "they part at step 1, loss_scale: nothing and 1024" in compare(capsys, one, other)[1]


def test_runs_without_a_common_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = make_run(tmp_path / "one", losses=[]), make_run(tmp_path / "other", losses=[2.0])
    assert "they have no step in common" in compare(capsys, one, other)[1]


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", losses=[1.0])
    (tmp_path / "empty").mkdir()
    broken = make_run(tmp_path / "broken", losses=[1.0])
    (broken / "config.toml").write_text("= 3")
    pipe = tmp_path / "pipe"
    (pipe / "metrics.jsonl").mkdir(parents=True)
    for arguments, words in {
        (run,): "give two or more",
        (run, tmp_path / "nothing"): "there is no such folder",
        (run, tmp_path / "empty"): "it holds no metrics.jsonl",
        (run, broken): "is no configuration that a run wrote",
        (run, pipe): "metrics.jsonl cannot be read",
        (): "the following arguments are required: RUN",
    }.items():
        code, out, err = compare(capsys, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert words in err


def test_lines_that_are_damaged_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = make_run(tmp_path / "one", losses=[2.0, 1.0]), make_run(tmp_path / "other", losses=[2.0, 1.0])
    harm = b'\xff\xfe\n[1]\n{"kind": "step", "step": "x"}\n{"kind": "epoch", "step": 2, "epoch": []}\n' + b"[" * 10_000
    (other / "metrics.jsonl").write_bytes(harm + b"\n" + (other / "metrics.jsonl").read_bytes())
    (other / "summary.json").write_text("[1]")
    code, out, _ = compare(capsys, one, other)
    assert (code, "the same in all 2 steps" in out) == (0, True)
