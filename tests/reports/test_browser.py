"""Every page of a small loop in a real browser, from disk: nothing breaks, and nothing asks the network."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from isrdpo.core.pipeline import NOTEBOOKS

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page, Request

pytestmark = pytest.mark.slow
BROWSER_NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSER_NAMES)), None)
if BROWSER is None:
    reason = "no Chromium on this machine (Debian: apt install chromium, or CHROMIUM=/path)"
    pytest.skip(reason, allow_module_level=True)

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PAGES = [
    "report.html",
    "comparison/comparison.html",
    "iter_00/reports/05_evaluation.html",
    *(f"iter_01/reports/{name}.html" for name in NOTEBOOKS.values()),
    *(f"iter_02/reports/{name}.html" for name in NOTEBOOKS.values()),
]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """A Chromium that asks for nothing by itself."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, small_loop: Path) -> Iterator:
    """`open_page(name, width, scheme)`: (the page, its complaints, the addresses it asked for)."""
    contexts = []

    def open_in_tab(
        name: str, width: int = 1366, scheme: str = "light"
    ) -> "tuple[Page, list[str], list[str]]":
        complaints: list[str] = []
        requests: list[str] = []

        def on_message(message: "ConsoleMessage") -> None:
            if message.type in ("error", "warning"):
                complaints.append(message.text)

        def on_failure(request: "Request") -> None:
            complaints.append(f"{request.url[:80]} failed: {request.failure}")

        context = browser.new_context(viewport={"width": width, "height": 768}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", on_message)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", on_failure)
        page.on("request", lambda request: requests.append(request.url))
        page.goto((small_loop / name).as_uri(), wait_until="load")
        return page, complaints, requests

    yield open_in_tab
    for context in contexts:
        context.close()


def test_these_are_all_pages(small_loop: Path) -> None:
    assert sorted(PAGES) == sorted(str(p.relative_to(small_loop)) for p in small_loop.rglob("*.html"))


@pytest.mark.parametrize("width", [1366, 390])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_keeps_to_itself(open_page, name: str, width: int) -> None:
    page, complaints, requests = open_page(name, width)
    assert complaints == []
    assert all(url.startswith(("file:///", "data:")) for url in requests)
    broken_images = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert page.evaluate(broken_images) == 0
    too_wide = page.evaluate("""[...document.querySelectorAll('body *')].filter(
        e => e.getBoundingClientRect().right > innerWidth + 1
        && !e.closest('.isr-scroll, pre, svg, details:not([open])')).map(e => e.outerHTML.slice(0, 120))""")
    assert too_wide == []
    assert page.evaluate("document.scrollingElement.scrollWidth") <= width
    small_figures = "[...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width < 200)"
    assert page.evaluate(f"{small_figures}.length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_everybody_can_read_a_page(open_page, name: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page, _, _ = open_page(name, scheme=scheme)
    response = Axe().run(page).response
    passes = {entry["id"] for entry in response["passes"]}
    assert {"color-contrast", "document-title", "html-has-lang"} <= passes, "nothing was looked at"
    serious = [entry for entry in response["violations"] if entry["impact"] in ("serious", "critical")]
    assert [(entry["id"], entry["nodes"][0]["html"][:200]) for entry in serious] == []


def test_the_first_screen_says_it_all(open_page) -> None:
    page, _, _ = open_page("report.html")
    bottom = page.evaluate("""Math.max(...[...document.querySelectorAll('.outcome, .first svg')].map(
        e => e.getBoundingClientRect().bottom))""")
    assert bottom <= 768
    assert page.locator(".first svg").count() == 4
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_dark_is_dark_and_the_letters_of_figures_follow(open_page) -> None:
    page, _, _ = open_page("report.html", scheme="dark")
    ink, letters, paper = page.evaluate("""[
        getComputedStyle(document.body).color,
        getComputedStyle(document.querySelector('svg text')).fill,
        getComputedStyle(document.body).backgroundColor]""")
    assert ink == letters
    assert paper != "rgb(255, 255, 255)"


def test_a_clip_plays(open_page) -> None:
    page, complaints, _ = open_page("iter_02/reports/02_retrospection.html")
    assert page.locator("video").count() >= 4
    page.evaluate("document.querySelector('video').play()")
    for _ in range(100):  # the page's policy forbids evaluating code in it, as wait_for_function does
        if page.evaluate("document.querySelector('video').currentTime") > 0.3:
            break
        page.wait_for_timeout(100)
    assert page.evaluate("document.querySelector('video').currentTime") > 0.3
    assert page.evaluate("document.querySelector('video').error") is None
    assert complaints == []


def test_every_link_leads_somewhere(open_page, small_loop: Path) -> None:
    for name in PAGES:
        page, _, _ = open_page(name)
        links = page.evaluate(
            "[...document.querySelectorAll('a[href], video[src]')].map(e => e.href || e.src)"
        )
        assert links, name
        assert all(Path(link.removeprefix("file://")).is_file() for link in links), name


def test_pages_are_small(small_loop: Path) -> None:
    assert (small_loop / "report.html").stat().st_size < 2_000_000
    assert all((small_loop / name).stat().st_size < 10_000_000 for name in PAGES)
