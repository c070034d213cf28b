"""The page at / in a real browser: Debian's chromium, driven by Playwright."""

import shutil

import pytest

from served import listening

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield found
        found.close()


class Visit:
    """An open page, and the errors that occurred in it."""

    def __init__(self, browser, address, width=1200, height=900):
        self.page = browser.new_page(viewport={"width": width, "height": height})
        self.wrong = []
        self.asked = []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(address)

    def press(self, section):
        self.page.click(f"#{section} button")
        self.page.wait_for_selector(f"#{section} .result > *")
        return self.page.locator(f"#{section} .result")


def test_every_tool_of_the_page_shows_what_the_models_say(browser, loaded):
    with listening(list(loaded.values())) as address:
        visit = Visit(browser, address)
        visit.page.wait_for_selector("#fill button")
        assert visit.press("similarity").locator("table.heat td").count() == 25
        assert visit.page.locator("#similarity td").first.inner_text() == "1.00"
        for name in ("reranker", "multi-vector", "embedder"):
            visit.page.select_option("#search-model", name)
            visit.page.evaluate("document.querySelector('#search .result').replaceChildren()")
            assert visit.press("search").locator("li").count() == 4
        entities = visit.press("entities")
        assert entities.inner_text().replace("PER", "").replace(" ", "").startswith("MarieCurie")
        assert visit.press("answers").locator("li").count() >= 1
        fillings = visit.press("fill").locator("li")
        assert fillings.count() == 5
        assert fillings.first.inner_text().endswith("%")
        assert visit.press("classify").locator("li").count() == 3
        visit.press("words")
        assert visit.page.locator("nav a").count() == 7
        assert not visit.wrong
        assert all(url.startswith((address, "data:")) for url in visit.asked)


def test_the_page_shows_what_is_served_and_nothing_else(browser, loaded):
    with listening([loaded["fill-mask"]]) as address:
        visit = Visit(browser, address)
        visit.page.wait_for_selector("#fill button")
        assert visit.page.locator("main section:visible").count() == 1
        visit.page.fill("#fill-text", "two [MASK] and [MASK] <b>")
        assert visit.press("fill").locator("li").count() == 10
        visit.page.fill("#fill-text", "no mask")
        visit.page.click("#fill button")
        visit.page.wait_for_selector("#fill .wrong")
        assert "There is no [MASK]" in visit.page.inner_text("#fill .wrong")


def test_what_a_text_holds_is_never_run(browser, loaded):
    with listening([loaded["entities"]]) as address:
        visit = Visit(browser, address)
        visit.page.wait_for_selector("#entities button")
        visit.page.fill(
            "#entities-text", "<img src=x onerror=\"document.title='run'\"> Anna 😀 met <script>1</script> Bob"
        )
        assert "<img src=x" in visit.press("entities").inner_text().replace("PER", "")
        assert visit.page.title() == "modernbert serve"


def test_on_a_phone_nothing_is_wider_than_the_screen(browser, loaded):
    with listening(list(loaded.values())) as address:
        visit = Visit(browser, address, 360, 740)
        visit.page.wait_for_selector("#fill button")
        for section in ("similarity", "search", "entities", "answers", "fill", "classify"):
            visit.press(section)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
        assert visit.page.locator("#fill button").bounding_box()["height"] >= 44


def test_the_page_asks_for_a_required_key(browser, loaded):
    with listening([loaded["fill-mask"]], api_key="secret") as address:
        visit = Visit(browser, address)
        visit.page.wait_for_selector("#key-value")
        visit.page.fill("#key-value", "wrong")
        visit.page.click("#key button")
        visit.page.wait_for_function("document.querySelector('#key .result').textContent.includes('not the key')")
        visit.page.fill("#key-value", "secret")
        visit.page.click("#key button")
        visit.page.wait_for_selector("#fill button")
        assert visit.press("fill").locator("li").count() == 5


def test_the_page_of_routes_shows_every_field(browser, loaded):
    with listening([loaded["embedder"]]) as address:
        visit = Visit(browser, f"{address}/docs")
        visit.page.wait_for_selector("details")
        visit.page.click("summary:has-text('/embed') >> nth=0")
        assert "prompt_name" in visit.page.inner_text("details[open]")
        assert not visit.wrong
