"""A page holds what the run's folder does, as text and nothing else, and asks no network for anything."""

import hashlib
import json
import re
import time
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest

from distrib.page.render import render, settings
from distrib.page.run_files import read_run
from tests.distrib.page.folders import CROSSCHECK, HOSTILE, HOSTILE_CLASSES, hostile_run, mistakes, write
from tests.markup import Elements


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(read_run(hostile_run(tmp_path_factory.mktemp("hostile"))))


def test_hostile_names_are_text(page: str) -> None:
    elements = Elements(page)
    assert HOSTILE not in page
    assert elements.named("script") == [
        {"type": "application/json", "id": "data"},
        {},
        {},
    ]
    assert not [a for _, attributes in elements.found for a in attributes if a.startswith("on") or a == "style"]
    assert len(elements.named("img")) == 2 * len(HOSTILE_CLASSES)
    assert any(HOSTILE in text for text in elements.texts["li"])
    assert "{{ 7 * 7 }}" in elements.texts["li"]


def test_nothing_is_fetched(page: str) -> None:
    addresses = [v for _, a in Elements(page).found for name, v in a.items() if name in ("src", "href", "srcset")]
    assert {address.partition(":")[0].partition("#")[0] for address in addresses if address} == {
        "data",
        "",
        "crosscheck.json",
    }
    [policy] = [a["content"] for a in Elements(page).named("meta") if "http-equiv" in a]
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy


def test_the_verdict_leads_to_the_page_of_the_cross_check_if_there_is_one(tmp_path: Path) -> None:
    folder = hostile_run(tmp_path, epochs=1, steps_per_epoch=6)
    (folder / "crosscheck.html").write_text("")
    links = [a["href"] for a in Elements(render(read_run(folder))).named("a")]
    assert links.count("crosscheck.html") == 2
    assert "crosscheck.json" in links


def test_data_is_strict_json(page: str) -> None:
    text = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    [data] = [json.loads(found, parse_constant=pytest.fail) for found in text]
    assert "\u2028" not in text[0]
    assert [chart["name"] for chart in data["charts"]] == [
        "loss",
        "accuracy",
        "rate",
        "speed",
        "data",
        "gradient",
        "scale",
    ]
    assert data["charts"][0]["series"][0]["mean"][4] is None, "a loss that is no number is a gap"
    assert [mark["kind"] for mark in data["marks"]] == ["stop", "resume", "fault", "resume", "fault"]


def test_the_header_says_what_was_trained_on_what(tmp_path: Path) -> None:
    run = tmp_path / "run"
    write(run / "page" / "facts.json", {"data": {"source": "folder:cats"}, "precision": "no"})
    (run / "config.toml").write_text('model.name = "resnet18"\noptimizer.name = "sgd"\n')
    write(run / "metrics.jsonl", {})
    assert "network resnet18 · optimizer sgd · images folder:cats · float32" in render(read_run(run))


def test_marks_of_direction_and_broken_names_are_shown(page: str) -> None:
    assert "\u202e" not in page
    assert r"a\u202eb" in page
    assert r"caf\udce9" in page


def test_it_is_read_without_eyes_and_without_a_mouse(page: str) -> None:
    """Every chart has words, can be focused, and there are tables; the headings follow each other."""
    elements = Elements(page)
    plots = [a for a in elements.named("div") if a.get("class") == "plot"]
    assert len(plots) == 7
    assert all(a["role"] == "img" and a["tabindex"] == "0" and "first" in str(a["aria-label"]) for a in plots)
    assert len(elements.named("caption")) == len(elements.named("table")) == 4
    levels = [int(tag[1]) for tag, _ in elements.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in pairwise(levels))
    assert all(a.get("alt") for a in elements.named("img"))
    assert elements.named("html") == [{"lang": "en"}]


@pytest.mark.parametrize(
    ("state", "summary", "words"),
    [
        ("running", None, "There is no verdict before training is over."),
        ("done", None, "There is no summary.json that holds the verdict."),
        ("done", "{}", "There is no summary.json that holds the verdict."),
        ("done", '{"crossch', "The verdict is in summary.json, which cannot be read."),
    ],
)
def test_a_verdict_that_is_missing_is_not_put_off_without_reason(
    tmp_path: Path, state: str, summary: str | None, words: str
) -> None:
    run = hostile_run(tmp_path, epochs=1, steps_per_epoch=6)
    write(run / "status.json", {"state": state})
    (run / "summary.json").unlink()
    if summary is not None:
        (run / "summary.json").write_text(summary)
    assert words in render(read_run(run))


def test_findings_are_told_as_the_cross_check_tells_them(tmp_path: Path) -> None:
    run = hostile_run(tmp_path, epochs=1, steps_per_epoch=6)
    parted = {"check": "replicas", "recorded": 1.5599999427795410, "expected": 1.0399999618530273, "eta": "inf"}
    found = {"step": 2, "tensor": "weight", "slot": "param", "cause": "they differ"}
    write(run / "crosscheck.json", CROSSCHECK | {"profiles": [], "findings": [found | parted]})
    page = render(read_run(run))
    assert "they differ (1.55999994 here, 1.03999996 on the lowest rank)" in page
    assert "(no step) held against" in page, "a run of which every step was skipped"
    write(run / "crosscheck.json", CROSSCHECK)
    assert "(recorded 0.5, expected nan, eta inf)" in render(read_run(run))


@pytest.mark.parametrize("loss", ["null", "Infinity", "NaN"])
def test_a_loss_that_is_not_finite_is_called_so(tmp_path: Path, loss: str) -> None:
    """metrics.jsonl has null for every number that JSON has not, so that nobody knows which one it was."""
    (tmp_path / "metrics.jsonl").write_text(f'{{"kind": "step", "step": 1, "loss": {loss}}}\n')
    assert "<b>not finite</b> training loss of the last step" in render(read_run(tmp_path))


def test_every_shade_of_the_confusion_can_be_read(page: str) -> None:
    """WCAG AA asks for a contrast of 4.5 between a text and what is behind it."""
    shades = re.findall(r"shade-\d \{ background: color-mix\(in srgb, var\(--(c\d)\) (\d+)%, transparent\)", page)
    assert len(shades) == 18
    light_and_dark = {name: re.findall(rf"--{name}: (#\w+)", page) for name in ("paper", "ink", "c0", "c1")}
    for theme in range(2):
        colors = {name: rgb(found[theme]) for name, found in light_and_dark.items()}
        for name, share in shades:
            mixed = zip(colors["paper"], colors[name], strict=True)
            behind = [paper + (color - paper) * int(share) / 100 for paper, color in mixed]
            dim, bright = sorted((luminance(colors["ink"]), luminance(behind)))
            assert (bright + 0.05) / (dim + 0.05) > 4.5, (name, share)


def rgb(color: str) -> list[float]:
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    return [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]


def luminance(color: list[float]) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in color]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_what_differs_from_the_defaults_comes_first(tmp_path: Path) -> None:
    rows = settings(read_run(hostile_run(tmp_path)))
    assert [(key, differs) for key, _, _, differs in rows] == [
        ("data.source", True),
        ("training.batch_size", True),
        ("training.clip_norm", True),
        ("training.seed", False),
    ]


def test_a_confusion_that_is_not_square_is_left_out(tmp_path: Path) -> None:
    run = hostile_run(tmp_path, epochs=1, steps_per_epoch=6)
    write(run / "page" / "mistakes.json", {**mistakes(), "confusion": [[1, 2], [3]]})
    found = read_run(run)
    assert (found.mistakes, found.damaged) == (None, ["page/mistakes.json"])


def test_an_empty_folder_has_a_page(tmp_path: Path) -> None:
    assert "No step is taken yet" in render(read_run(tmp_path))


@pytest.mark.parametrize(
    "name",
    [
        "page/facts.json",
        "page/images.json",
        "page/mistakes.json",
        "summary.json",
        "crosscheck.json",
        "status.json",
        "config.toml",
    ],
)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b'{"starts": [{"time": "x"}], "steps": {}, "verdict": []}',
        b"[" * 9000,
        b"[a]\nb=" + b"[" * 400 + b"]" * 400,
    ],
)
def test_a_damaged_file_costs_its_own_part_only(tmp_path: Path, name: str, content: bytes) -> None:
    run = hostile_run(tmp_path, epochs=1, steps_per_epoch=6)
    (run / name).write_bytes(content)
    page = render(read_run(run))
    assert "<h2" in page
    assert ("cannot be read" in page) == (name in read_run(run).damaged)


def test_twenty_epochs_take_less_than_two_megabytes(tmp_path: Path) -> None:
    run = read_run(hostile_run(tmp_path, epochs=20, steps_per_epoch=390))
    began = time.process_time()
    page = render(run)
    assert len(page.encode()) < 500_000, "all steps of it would take more"
    assert time.process_time() - began < 5


def test_the_chart_library_is_the_released_file() -> None:
    """uPlot 1.6.32 as its maker released it: whoever brings a newer one states its hash here."""
    assets = files("distrib.page").joinpath("assets")
    digests = {name: hashlib.sha256(assets.joinpath(name).read_bytes()).hexdigest()[:16] for name in RELEASED}
    assert digests == RELEASED


RELEASED = {"uPlot.iife.min.js": "19c8d4c6ad88929a", "uPlot.min.css": "df630c6a8d6f8eea"}
