"""Every page of a small loop in a real browser, from disk: nothing breaks, nothing is asked of the network, everybody can read it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if BROWSER is None:
    pytest.skip("no Chromium on this machine (Debian: apt install chromium, or CHROMIUM=/path)", allow_module_level=True)

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
PAGES = ["report.html", "comparison/comparison.html", "iter_00/reports/05_evaluation.html"] + [
    f"iter_{t:02}/reports/{name}.html" for t in (1, 2) for name in ("01_data_prep", "02_retrospection", "03_judging", "04_dpo_training", "05_evaluation")
]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=BROWSER, args=QUIET)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser, small_loop: Path) -> Iterator:
    """`open_page(name, width, scheme)`: (the page, what it complained of, what it asked for)."""
    contexts = []

    def opened(name: str, width: int = 1366, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 768}, color_scheme=scheme)
        contexts.append(context)
        page, complaints, asked = context.new_page(), [], []
        page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(f"{request.url[:80]} failed: {request.failure}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((small_loop / name).as_uri(), wait_until="load")
        return page, complaints, asked

    yield opened
    for context in contexts:
        context.close()


def test_these_are_all_pages(small_loop: Path) -> None:
    assert sorted(PAGES) == sorted(str(p.relative_to(small_loop)) for p in small_loop.rglob("*.html"))


@pytest.mark.parametrize("width", [1366, 390])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_keeps_to_itself(open_page, name: str, width: int) -> None:
    page, complaints, asked = open_page(name, width)
    assert complaints == [] and all(url.startswith(("file:///", "data:")) for url in asked)
    assert page.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).length") == 0
    wide = page.evaluate("""[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1
        && !e.closest('.isr-scroll, pre, svg, details:not([open])')).map(e => e.outerHTML.slice(0, 120))""")
    assert wide == [] and page.evaluate("document.scrollingElement.scrollWidth") <= width
    assert page.evaluate("[...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width < 200).length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_everybody_can_read_a_page(open_page, name: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page, _, _ = open_page(name, scheme=scheme)
    response = Axe().run(page).response
    found = response["violations"]
    assert {"color-contrast", "document-title", "html-has-lang"} <= {entry["id"] for entry in response["passes"]}, "nothing was looked at"
    serious = [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")]
    assert serious == []


def test_the_first_screen_says_it_all(open_page) -> None:
    page, _, _ = open_page("report.html")
    bottom = page.evaluate("Math.max(...[...document.querySelectorAll('.outcome, .first svg')].map(e => e.getBoundingClientRect().bottom))")
    assert bottom <= 768 and page.locator(".first svg").count() == 4
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_dark_is_dark_and_the_letters_of_figures_follow(open_page) -> None:
    page, _, _ = open_page("report.html", scheme="dark")
    ink, letters, ground = page.evaluate("""[getComputedStyle(document.body).color, getComputedStyle(document.querySelector('svg text')).fill,
        getComputedStyle(document.body).backgroundColor]""")
    assert ink == letters and ground != "rgb(255, 255, 255)"


def test_a_clip_plays(open_page) -> None:
    page, complaints, _ = open_page("iter_02/reports/02_retrospection.html")
    assert page.locator("video").count() >= 4
    page.evaluate("document.querySelector('video').play()")
    for _ in range(100):  # the page's policy forbids evaluating code in it, as wait_for_function does
        if page.evaluate("document.querySelector('video').currentTime") > 0.3:
            break
        page.wait_for_timeout(100)
    assert page.evaluate("document.querySelector('video').currentTime") > 0.3
    assert page.evaluate("document.querySelector('video').error") is None and complaints == []


def test_every_link_leads_somewhere(open_page, small_loop: Path) -> None:
    for name in PAGES:
        page, _, _ = open_page(name)
        links = page.evaluate("[...document.querySelectorAll('a[href], video[src]')].map(e => e.href || e.src)")
        assert links and all(Path(link.removeprefix("file://")).is_file() for link in links), name


def test_pages_are_small(small_loop: Path) -> None:
    assert (small_loop / "report.html").stat().st_size < 2_000_000
    assert all((small_loop / name).stat().st_size < 10_000_000 for name in PAGES)
