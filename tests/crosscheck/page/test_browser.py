"""A real browser draws the page of a report, at any width, by day and night, and asks no network for anything."""

from pathlib import Path

import pytest

from crosscheck.page.render import render
from tests.crosscheck.page.reports import ALL
from tests.distrib.page.browser import chromium, tab

PHONE, DESKTOP = 360, 1280
_SHAPES = (
    "[...document.querySelectorAll('svg')].every((svg) => svg.getBoundingClientRect().width > 0 && "
    "svg.getBoundingClientRect().height > 0)"
)


def test_it_is_drawn_and_nothing_sticks_out(tmp_path: Path) -> None:
    binary = chromium()
    if binary is None:
        pytest.skip("there is no Chromium on this machine (Debian: apt-get install chromium)")
    with tab(binary) as browser:
        for name in ("mismatch", "hostile", "large", "vacuous"):
            path = tmp_path / f"{name}.html"
            path.write_text(render(ALL[name](), name), encoding="utf-8")
            for scheme, paper in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 26)")):
                width = PHONE if scheme == "light" else DESKTOP
                browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
                browser.call(
                    "Emulation.setDeviceMetricsOverride",
                    width=width,
                    height=800,
                    deviceScaleFactor=1,
                    mobile=width == PHONE,
                )
                browser.open(path)
                browser.ask("document.querySelectorAll('details').forEach((each) => { each.open = true })")
                assert browser.ask("document.documentElement.scrollWidth") <= width, (name, width)
                assert browser.ask("getComputedStyle(document.body).backgroundColor") == paper
                assert browser.ask(_SHAPES)
                assert len(browser.told("Network.requestWillBeSent")) == 1
                for trouble in ("Log.entryAdded", "Runtime.exceptionThrown", "Page.javascriptDialogOpening"):
                    assert browser.told(trouble) == [], (name, trouble)
