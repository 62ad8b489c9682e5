"""Tests of the page in headless Chromium, used as a person uses it."""

import dataclasses
import shutil
from zlib import crc32

import pytest

from gap_jax.report import page, results
from tests.report.browser import Browser, find_chromium

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def browser():
    with Browser(find_chromium()) as opened:
        yield opened


@pytest.fixture
def opened(browser, report):
    browser.open(report / "index.html", 1400)
    return browser


def picture(browser, part):
    """Return a checksum of the picture that a panel shows."""
    return crc32(browser.value(f"document.querySelector('#explorer [data-part={part}]').src").encode())


def text(browser, selector):
    return browser.value(f"document.querySelector({selector!r}).textContent").strip()


def rule(browser):
    box = "document.querySelector('.losses [id$=\"-0-now\"]').getBoundingClientRect()"
    return browser.value(f"{box}.left + {box}.width / 2")


def focus(browser, selector):
    browser.value(f"document.querySelector({selector!r}).focus()")


def test_arrow_keys_on_the_slider_change_picture_text_and_the_curves_rule(opened):
    parts = ("generated", "prediction", "error")
    before, left = [picture(opened, part) for part in parts], rule(opened)
    original = picture(opened, "original")
    focus(opened, "#step")
    opened.press("ArrowRight")
    assert all(picture(opened, part) != old for part, old in zip(parts, before, strict=True))
    assert picture(opened, "original") == original
    assert text(opened, "output[for=step]") == "5 of 40"
    assert opened.value("document.getElementById('step').getAttribute('aria-valuetext')") == "5 of 40"
    assert "step 5" in opened.value("document.querySelector('#explorer [data-part=generated]').alt")
    moved = rule(opened) - left
    opened.press("ArrowRight")
    assert moved > 10 and rule(opened) - left == pytest.approx(2 * moved, abs=1)
    opened.press("ArrowLeft")
    opened.press("ArrowLeft")
    assert [picture(opened, part) for part in parts] == before and rule(opened) == pytest.approx(
        left, abs=0.5
    )
    opened.press("End")
    assert text(opened, "output[for=step]") == "40 of 40"
    assert text(opened, ".values") == "At step 40: adversarial not measured"


def test_the_step_early_stopping_chose_is_marked(opened):
    assert text(opened, ".strip .stop small") == "25"
    assert "dashed: chosen by early stopping" in text(opened, ".losses")


def test_a_mouse_drags_the_slider(opened):
    before = picture(opened, "generated")
    box = opened.value("JSON.parse(JSON.stringify(document.getElementById('step').getBoundingClientRect()))")
    opened.value(f"scrollTo(0, {box['top'] - 300})")
    place = {"x": box["left"] + box["width"] / 2, "y": 300 + box["height"] / 2, "button": "left"}
    for kind in ("mousePressed", "mouseReleased"):
        opened.call("Input.dispatchMouseEvent", type=kind, clickCount=1, **place)
    assert text(opened, "output[for=step]") == "20 of 40" and picture(opened, "generated") != before


def test_arms_prompts_and_images_are_chosen_by_keys_alone(opened):
    assert not opened.value("document.querySelector('.aims').checkVisibility()")
    focus(opened, "#explorer input[name=arm]")
    opened.press("ArrowRight")
    assert (
        opened.value("document.querySelector('#explorer input[name=arm]:checked + span').textContent")
        == "Guided"
    )
    assert text(opened, ".aims .target") == "foggy"
    assert opened.value("document.querySelectorAll('.aims img').length") == 6
    assert text(opened, "output[for=prompt]") == "1 of 4, seed 0, foggy"
    words = text(opened, ".words")
    focus(opened, "#prompt")
    opened.press("ArrowRight")
    assert text(opened, "output[for=prompt]") == "2 of 4, seed 1, foggy" and text(opened, ".words") != words
    depth = picture(opened, "label")
    focus(opened, "#explorer input[name=image]")
    opened.press("ArrowRight")
    assert picture(opened, "label") != depth


def test_the_gallerys_slider_changes_every_arms_prompt(opened):
    cards = (
        "[...document.querySelectorAll('#gallery [data-group]')].map(c => c.querySelector('.of').textContent)"
    )
    before = opened.value(cards)
    focus(opened, "#which")
    opened.press("ArrowRight")
    after = opened.value(cards)
    assert len(after) == 9 and sum(a != b for a, b in zip(before, after, strict=True)) == 5  # the optimised
    source = "document.querySelector('#gallery [data-group] img').src"
    image = opened.value(source)
    focus(opened, "#gallery input[name=view]")
    opened.press("ArrowRight")
    assert opened.value(source) != image


@pytest.mark.parametrize("width", [380, 1400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(browser, report, width, scheme):
    browser.open(report / "index.html", width, scheme=scheme)
    browser.value("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert browser.value("document.documentElement.scrollWidth") == width
    wide = """[...document.querySelectorAll('main *')].filter(e =>
        e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll') && !e.closest('svg')
    ).map(e => e.outerHTML.slice(0, 80))"""
    assert browser.value(wide) == []
    paper = browser.value("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(253, 253, 251)", "dark": "rgb(20, 21, 24)"}[scheme]


def test_what_has_the_focus_is_seen(opened):
    for _ in range(4):
        opened.press("Tab")
        style = """(() => { const e = document.activeElement, s = getComputedStyle(e.type == 'radio' ?
            e.nextElementSibling : e); return s.outlineStyle + ' ' + s.outlineWidth })()"""
        assert opened.value(style) == "solid 2px"


def test_small_pictures_are_enlarged_pixel_by_pixel(opened):
    shown = "[...document.querySelectorAll('img:not([hidden])')]"
    styles = f"{shown}.map(image => getComputedStyle(image).imageRendering)"
    assert set(opened.value(styles)) == {"pixelated"}


def test_without_javascript_the_first_frames_are_there_and_no_dead_controls(browser, report):
    browser.open(report / "index.html", 1400, script=False)
    assert browser.value("document.querySelector('#explorer [data-part=generated]').naturalWidth") == 64
    assert not browser.value("document.getElementById('step').checkVisibility()")
    assert browser.value("document.querySelector('.losses svg').checkVisibility()")


def test_nothing_is_asked_of_the_network(opened, report):
    outside = [url for url in opened.requests if not url.startswith("data:")]
    assert set(outside) == {(report / "index.html").as_uri()}


def test_a_card_of_another_original_shows_its_own(browser, sampled, results_path, tmp_path):
    """Prompts of one class show originals of that class."""
    first, other, *_ = {prompt.arm: prompt for prompt in sampled.prompts}.values()
    example = dataclasses.replace(other.examples[0], original=other.examples[1].original)
    other = dataclasses.replace(other, examples=(example, *other.examples[1:]))
    shutil.copytree(results_path.parent, tmp_path, dirs_exist_ok=True)
    results.save(tmp_path / "results.json", dataclasses.replace(sampled, prompts=(first, other)))
    browser.open(page.write_page(tmp_path / "results.json", tmp_path / "report"), 1400)
    shown = "[...document.querySelectorAll('#gallery .own')].map(image => image.checkVisibility())"
    assert browser.value(shown) == [False, True]
    own = browser.value("document.querySelectorAll('#gallery .own')[1].src")
    focus(browser, "#gallery input[name=view]")
    browser.press("ArrowRight")
    assert browser.value(shown) == [False, False]
    assert browser.value("document.querySelector('#gallery [data-part=original]').src") == own
