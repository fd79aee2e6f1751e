"""The pages of a sweep, a reproduction and an index in headless Chromium, as people use them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from sweep_files import FakeSweep, fourteen, reproduction

from baddiffusion.report import write_index, write_page
from baddiffusion.report.sweep.page import write_sweep_page

pytestmark = pytest.mark.browser

CONTRAST = """() => {
  const channel = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = rgb => 0.2126 * channel(rgb[0] / 255) + 0.7152 * channel(rgb[1] / 255) + 0.0722 * channel(rgb[2] / 255);
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const color = numbers(getComputedStyle(one).backgroundColor);
      if (color.length === 3 || color[3] > 0.99) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element);
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest('script, .hidden')) continue;
    const ink = element.closest('svg') ? style.fill : style.color;
    const pair = [light(numbers(ink)), light(behind(element))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${walker.currentNode.data.trim()}`);
  }
  return found;
}"""
WIDE = "[document.documentElement.scrollWidth, innerWidth]"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    runs = tmp_path_factory.mktemp("lab") / "runs"
    sweep: FakeSweep = fourteen(runs, n=16)
    found = {"sweep": write_sweep_page(sweep.folder), "reproduction": write_page(reproduction(runs, sweep))}
    for path in runs.glob("rates-*/run.json"):
        (path.parent / "report.html").write_text("<title>a page</title>")  # newer than the record: it is left alone
    return {**found, "index": write_index(runs)}


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


class Opened:
    """A page with everything that it asked for and complained about."""

    def __init__(self, browser: Browser, path: Path, width: int = 1280, **given: object) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **given)  # type: ignore[arg-type]
        self.page: Page = self.context.new_page()
        self.asked: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def column(self, title: str) -> list[str]:
        cells = self.page.locator("table.sortable").first.locator(f'tbody td[data-title="{title}"]')
        return [text.split("\n")[-1].strip() for text in cells.evaluate_all("all => all.map(one => one.dataset.order)")]


@pytest.mark.parametrize("name", ["sweep", "reproduction", "index"])
def test_nothing_is_asked_for_and_nothing_goes_wrong(pages: dict[str, Path], browser: Browser, name: str) -> None:
    with Opened(browser, pages[name]) as opened:
        heads = opened.page.locator("table.sortable thead button")
        for index in range(heads.count()):
            heads.nth(index).click()
        outside = [url for url in opened.asked if not url.startswith("data:") and url != pages[name].as_uri()]
        assert outside == []
        assert opened.said == []


def test_a_click_sorts_and_says_so(pages: dict[str, Path], browser: Browser) -> None:
    with Opened(browser, pages["sweep"]) as opened:
        before = opened.column("Attack success")
        head = opened.page.locator("th", has_text="Attack success")
        head.locator("button").click()
        values = [float(text) for text in opened.column("Attack success") if text]
        assert values == sorted(values) != [float(text) for text in before if text]
        assert opened.column("Attack success")[-4:] == [""] * 4  # without a number: last
        assert head.get_attribute("aria-sort") == "ascending"
        head.locator("button").click()
        values = [float(text) for text in opened.column("Attack success") if text]
        assert values == sorted(values, reverse=True)
        assert opened.column("Attack success")[-4:] == [""] * 4
        assert head.get_attribute("aria-sort") == "descending"
        opened.page.locator("th", has_text="Outcome").locator("button").click()
        assert head.get_attribute("aria-sort") is None
        assert opened.column("Outcome") == sorted(opened.column("Outcome"))


def test_the_keyboard_sorts_and_opens_what_a_number_stands_on(pages: dict[str, Path], browser: Browser) -> None:
    with Opened(browser, pages["sweep"]) as opened:
        page = opened.page
        for _ in range(8):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.textContent") == "Poison rate":
                break
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.closest('th').ariaSort") == "ascending"
        page.keyboard.press("Space")
        assert page.evaluate("document.activeElement.closest('th').ariaSort") == "descending"
        assert page.locator(".tip:visible").count() == 0
        while "value" not in page.evaluate("document.activeElement.className"):
            page.keyboard.press("Tab")
        tip = page.locator(".tip:visible")
        assert tip.count() == 1
        assert "confidence" in tip.inner_text()
        assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == tip.get_attribute("id")
        page.keyboard.press("Escape")
        assert page.locator(".tip:visible").count() == 0


def test_a_pointer_opens_it_and_may_move_into_it(pages: dict[str, Path], browser: Browser) -> None:
    with Opened(browser, pages["sweep"]) as opened:
        page = opened.page
        for value in (page.locator("td .value").first, page.locator("td .value").last):
            value.scroll_into_view_if_needed()
            value.hover()
            tip = page.locator(".tip:visible")
            assert tip.count() == 1
            box = tip.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= 1280
            assert box["y"] >= 0
            assert box["y"] + box["height"] <= 900
            tip.hover()
            assert tip.is_visible()
            page.mouse.move(2, 2)
            assert page.locator(".tip:visible").count() == 0


def test_a_finger_opens_it(pages: dict[str, Path], browser: Browser) -> None:
    with Opened(browser, pages["sweep"], width=390, has_touch=True, is_mobile=True) as opened:
        opened.page.locator("td .value").nth(3).tap()
        tip = opened.page.locator(".tip:visible")
        assert tip.count() == 1
        box = tip.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        opened.page.locator("thead button", has_text="Similarity").tap()
        values = [float(text) for text in opened.column("Similarity") if text]
        assert values == sorted(values)


@pytest.mark.parametrize("name", ["sweep", "reproduction", "index"])
def test_no_window_makes_the_page_scroll_sideways(pages: dict[str, Path], browser: Browser, name: str) -> None:
    with Opened(browser, pages[name]) as opened:
        opened.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        for width in (320, 390, 768, 1000, 1280):
            opened.page.set_viewport_size({"width": width, "height": 844})
            content, window = opened.page.evaluate(WIDE)
            assert (content, window) == (width, width)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["sweep", "reproduction", "index"])
def test_every_word_can_be_read(pages: dict[str, Path], browser: Browser, name: str, scheme: str) -> None:
    with Opened(browser, pages[name], color_scheme=scheme) as opened:
        assert opened.page.evaluate(CONTRAST) == []
        paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(251, 250, 247)" if scheme == "light" else "rgb(21, 23, 26)")


def test_downloads_are_saved_under_their_names(pages: dict[str, Path], browser: Browser, tmp_path: Path) -> None:
    with Opened(browser, pages["sweep"]) as opened:
        for name, start in (("rates.csv", b"\xef\xbb\xbfpoison.rate,trigger,"), ("rates-2.png", b"\x89PNG")):
            with opened.page.expect_download() as waiting:
                opened.page.locator(f'#files ~ ul a[download="{name}"]').click()
            assert waiting.value.suggested_filename == name
            waiting.value.save_as(tmp_path / name)
            assert (tmp_path / name).read_bytes().startswith(start)


def test_the_print_shows_intervals_and_no_tips(pages: dict[str, Path], browser: Browser) -> None:
    with Opened(browser, pages["sweep"], color_scheme="dark") as opened:
        opened.page.emulate_media(media="print")
        opened.page.locator("td .value").first.focus()
        assert opened.page.locator(".tip:visible").count() == 0
        assert opened.page.locator("small.interval:visible").count() > 40
        assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert opened.page.evaluate(CONTRAST) == []


def test_links_of_the_index_open_pages(pages: dict[str, Path], browser: Browser) -> None:
    with Opened(browser, pages["index"]) as opened:
        opened.page.locator("a", has_text="rates-0123abcd").click()
        opened.page.wait_for_url("**/rates-0123abcd/report.html")
        assert "suffice" in opened.page.locator("h1").inner_text()
