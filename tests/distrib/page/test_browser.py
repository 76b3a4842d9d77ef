"""A real browser draws the page, asks no network for anything, and runs nothing that came with the data."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from distrib.page.render import write
from tests.distrib.page.browser import Tab, chromium, tab
from tests.distrib.page.folders import hostile_run

PHONE, DESKTOP = 360, 1280

_DRAWN = """
[...document.querySelectorAll("canvas")].filter((canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.some((value) => value > 0);
}).length
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = hostile_run(tmp_path_factory.mktemp("run"), epochs=20, steps_per_epoch=390)
    write(folder)
    return folder / "index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Tab]:
    binary = chromium()
    if binary is None:
        pytest.skip("there is no Chromium on this machine (Debian: apt-get install chromium)")
    with tab(binary) as opened:
        yield opened


def resize(browser: Tab, width: int) -> None:
    browser.call(
        "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width == PHONE
    )


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_drawn_at_any_width_and_by_day_and_night(browser: Tab, page: Path, scheme: str, width: int) -> None:
    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    resize(browser, width)
    browser.open(page)
    assert browser.ask(_DRAWN) == 7
    assert browser.ask("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    paper = browser.ask("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[scheme]


def test_nothing_is_fetched_and_nothing_of_the_data_runs(browser: Tab, page: Path) -> None:
    browser.open(page)
    requests = {request["request"]["url"].partition(":")[0] for request in browser.told("Network.requestWillBeSent")}
    assert requests == {"file", "data"}
    assert len([r for r in browser.told("Network.requestWillBeSent") if r["request"]["url"].startswith("file")]) == 1
    for trouble in (
        "Page.javascriptDialogOpening",
        "Log.entryAdded",
        "Runtime.exceptionThrown",
        "Runtime.consoleAPICalled",
    ):
        assert browser.told(trouble) == [], "a script of the data, a breach of the policy, or an error of ours"


def test_it_is_shown_within_a_second(browser: Tab, page: Path) -> None:
    """Twenty epochs of 390 steps; the browser's own clock, of the processor's time that this machine gives it."""
    browser.open(page)
    navigation = browser.ask("performance.getEntriesByType('navigation')[0].duration")
    assert navigation < 5_000, "it takes 0.2 s where nobody else computes"


def test_labels_of_an_axis_have_the_room_that_they_take(browser: Tab, tmp_path: Path) -> None:
    """Beside the chart of a loss scale of millions there is more room than beside that of a rate."""
    folder = hostile_run(tmp_path, epochs=1, steps_per_epoch=20)
    metrics = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(metrics.replace("65536.0", "33554432.0"))
    write(folder)
    browser.open(folder / "index.html")
    left = "parseFloat(document.querySelector('[data-chart={}] .u-over').style.left)"
    rate, scale = (browser.ask(left.format(name)) for name in ("rate", "scale"))
    assert 40 < rate < 70 < scale < 120


def test_the_keyboard_reads_and_zooms(browser: Tab, page: Path) -> None:
    resize(browser, DESKTOP)
    browser.open(page)
    browser.ask("document.querySelector('[data-chart=loss]').focus()")
    said = "document.querySelector('[data-chart=loss] + output').textContent"
    browser.press("End")
    assert browser.ask(said).startswith("step 7,800, epoch 20; training 0.3")
    browser.press("Home")
    assert browser.ask(said).startswith("step 1, epoch 1; training 2.3")
    browser.press("ArrowRight")
    after = browser.ask(said)
    assert re.fullmatch(r"step 7, epoch 1; training 2\.\d+ \(2\.\d+ to 2\.\d+\), mean of steps 7 to 12", after)
    everywhere = "[...document.querySelectorAll('output')].filter((o) => o.textContent.startsWith('step 7,')).length"
    assert browser.ask(everywhere) == 6, "all charts show the same step, but for the accuracy, which has epochs only"
    browser.ask("document.querySelector('[data-chart=rate]').focus()")
    arrow = "document.activeElement.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' }))"
    browser.ask(f"for (let i = 0; i < 432; i++) {arrow}")  # to the point that has step 2,600, a stop and a resume
    stopped = browser.ask("document.querySelector('[data-chart=rate] + output').textContent")
    assert "mean of steps 2,599 to 2,604; step 2,600: stopped on request: SIGTERM <b>; step 2,600: resumed" in stopped
    ticks = "(document.activeElement.querySelector('canvas').toDataURL())"
    whole = browser.ask(ticks)
    browser.press("+")
    browser.ask("new Promise(requestAnimationFrame)")
    assert browser.ask(ticks) != whole
    browser.press("0")
    browser.ask("new Promise(requestAnimationFrame)")
    assert browser.ask(ticks) == whole
