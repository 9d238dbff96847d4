"""The page in a real browser: search, moments that play, files that are dropped, keys, and errors that are shown."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from omnivl.inference.media_index import MediaIndex
from omnivl.inference.pipeline import Pipeline
from omnivl.inference.server.app import create_app
from tests.inference.browser import Browser
from tests.inference.conftest import fill

pytestmark = pytest.mark.chromium


@pytest.fixture(scope="module")
def index(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> MediaIndex:
    place = tmp_path_factory.mktemp("page")
    return MediaIndex.build(fill(place / "media"), pipeline, index=place / "index")


@pytest.fixture(scope="module")
def address(index: MediaIndex) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(create_app(index), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    browser.look(1280, 900)
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium: Browser, address: str) -> Iterator[Browser]:
    chromium.requests.clear()
    chromium.console.clear()
    chromium.open(address)
    yield chromium
    assert all(url.startswith((address, "blob:", "data:")) for url in chromium.requests), "it asked another host"


NAMES = "[...document.querySelectorAll('.tile')].map((tile) => tile.title.split('/').pop())"
DONE = "document.getElementById('status').textContent.includes('result')"


def search(browser: Browser, text: str) -> list[str]:
    browser.run("document.getElementById('query').value = ''; document.getElementById('query').focus()")
    browser.type(text)
    browser.key("Enter", "\r")
    browser.wait(f"{DONE} && {NAMES}.length")
    return browser.run(NAMES)


def test_search_shows_files_in_the_right_order_with_their_pictures(browser: Browser, index: MediaIndex) -> None:
    assert search(browser, "a red circle") == [Path(r.path).name for r in index.search("a red circle", 24)]
    images = "[...document.querySelectorAll('.tile img')]"
    browser.wait(f"{images}.length === 9 && {images}.every((image) => image.complete && image.naturalWidth)")
    assert browser.run("location.search") == "?q=a+red+circle"
    assert not browser.console


def test_it_says_how_many_files_there_are(browser: Browser) -> None:
    browser.wait("document.getElementById('status').textContent.startsWith('9 pictures and videos')")


def test_an_address_holds_its_search(browser: Browser, address: str) -> None:
    browser.open(f"{address}/?q=a+red+circle&type=video")
    browser.wait(f"{NAMES}.length === 2")
    assert sorted(browser.run(NAMES)) == ["film.mp4", "moves.gif"]


def test_a_film_plays_from_its_moment_when_it_is_reached_by_key(browser: Browser, index: MediaIndex) -> None:
    names = search(browser, "a red circle")
    film = next(r for r in index.search("a red circle", 24) if r.path.endswith("film.mp4"))
    browser.key("ArrowDown")
    for _ in range(names.index("film.mp4")):
        browser.key("ArrowRight")
    assert browser.run("document.activeElement.title").endswith("film.mp4")
    assert film.start is not None and film.end is not None
    playing = "document.querySelector('.tile video')"
    browser.wait(f"{playing} && {playing}.currentTime > {film.start} && {playing}.currentTime <= {film.end}")
    browser.key("Enter", "\r")
    browser.wait("document.getElementById('viewer').open")
    browser.wait("document.querySelector('#stage video').currentTime >= " + str(film.start))
    browser.key("Escape")
    browser.wait("!document.getElementById('viewer').open && !document.querySelector('#stage video')")


def test_a_file_is_captioned_matched_and_asked_about(browser: Browser, index: MediaIndex, pipeline: Pipeline) -> None:
    names = search(browser, "a red circle")
    path = next(r.path for r in index.search("a red circle", 24) if r.path.endswith("3.png"))
    browser.run(f"document.querySelectorAll('.tile')[{names.index('3.png')}].click()")
    browser.run("document.getElementById('caption').click()")
    answer = "document.getElementById('answer').textContent"
    browser.wait(f"{answer} && {answer} !== '…'")
    assert browser.run(answer) == pipeline.caption(path).text
    browser.run("document.querySelector('#match input').focus()")
    browser.type("a red circle")
    browser.key("Enter", "\r")
    percent = round(100 * pipeline.match(path, "a red circle").score)
    browser.wait(f"{answer}.includes('“a red circle” matches with a probability of {percent}%')")
    browser.run("document.querySelector('#ask input').focus()")
    browser.type("what is it?")
    browser.key("Enter", "\r")
    said = pipeline.answer(path, "what is it?").text
    browser.wait(f"{answer} === {json.dumps(said)}")
    browser.run("document.getElementById('similar').click()")
    browser.wait(f"{NAMES}[0] === '3.png'")


def test_a_picture_is_dropped_or_chosen_to_search_by_it(browser: Browser, index: MediaIndex) -> None:
    media = Path(index.store.roots()[0])
    browser.drop(media / "4.png")
    browser.wait(f"{NAMES}[0] === '4.png'")
    browser.give_file("#example", media / "2.png")
    browser.wait(f"{NAMES}[0] === '2.png'")
    assert browser.run("document.getElementById('like').textContent").strip().startswith("Like 2.png")
    browser.give_file("#example", media / "film.mp4")
    browser.wait(f"{NAMES}[0] === 'film.mp4'")


def test_errors_are_shown(browser: Browser, index: MediaIndex) -> None:
    shown = "document.querySelector('#error:not([hidden])')?.textContent"
    browser.run("document.getElementById('search').requestSubmit()")
    browser.wait(f"{shown}?.startsWith('The query is empty')")
    browser.give_file("#example", Path(index.store.roots()[0]) / "broken.jpg")
    browser.wait(f"{shown}?.includes('it is text')")
    browser.run("window.fetch = () => Promise.reject(new TypeError('no network'))")
    browser.run("document.getElementById('query').value = 'a'; document.getElementById('search').requestSubmit()")
    browser.wait(f"{shown}?.includes('does not answer')")


def test_nothing_that_matches_is_told_with_the_best(browser: Browser, address: str) -> None:
    browser.open(f"{address}/?q=a+red+circle&min_match=0.5")
    status = "document.getElementById('status').textContent"
    browser.wait(f"{status}.startsWith('Nothing matches (best 0.') || {DONE}")


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_is_legible_in_light_and_dark(browser: Browser, dark: bool) -> None:
    browser.look(390, 844, dark=dark)
    search(browser, "a red circle")
    assert browser.run("document.documentElement.scrollWidth") <= 390
    luminance = "(c) => c.match(/[0-9.]+/g).slice(0, 3).reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0)"
    ground, ink = (
        browser.run(f"({luminance})(getComputedStyle(document.body).{n})") for n in ("backgroundColor", "color")
    )
    assert (ground < 60 and ink > 200) if dark else (ground > 200 and ink < 60)
    browser.run("document.querySelector('.tile').click()")
    browser.wait("document.getElementById('viewer').open")
    assert browser.run("document.getElementById('viewer').scrollWidth") <= 390
    browser.look(1280, 900)
