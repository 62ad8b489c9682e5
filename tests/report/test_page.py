import base64
import dataclasses
import json
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from gap_jax.report import embedded, page, pictures, results
from gap_jax.report.arms import arm_styles
from tests.report import sample


class Elements(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def html(report):
    """The text of the page without the bytes of its pictures."""
    return re.sub(r"(?<=base64,)[\w+/=]+", "", (report / "index.html").read_text())


@pytest.fixture
def copy(tmp_path):
    """The path of results with one prompt of each kind, for tests that damage them."""
    return sample.write(tmp_path / "copy", examples=1, prompts=1, seeds=(0,))


@pytest.fixture
def bare(tmp_path, sampled):
    """The path of results with a control and nothing else."""
    column = results.Column("clean", "rooms", None, {"control": {"l1": (0.1,)}})
    nothing = {"generated": {}, "critic_real": (), "critic_constant": (), "efficiency": {}, "prompts": ()}
    path = tmp_path / "bare" / "results.json"
    results.save(path, dataclasses.replace(sampled, seeds=(0,), columns=(column,), **nothing))
    return path


def test_tables_and_figures_lie_beside_the_page(report):
    files = {str(path.relative_to(report)) for path in report.rglob("*") if path.is_file()}
    assert {"index.html", "table.md", "table.tex", "figures/cc.svg", "figures/3dcc.svg"} <= files
    assert {"figures/fidelity.svg", "figures/efficiency-0-foggy.svg"} <= files
    assert {"figures/losses-11-adversarial.svg", "figures/filmstrip-10-adversarial.svg"} <= files
    assert "| Adversarial (SDEdit) |" in (report / "table.md").read_text()
    assert r"Adversarial (SDEdit) & " in (report / "table.tex").read_text()


def test_nothing_in_the_page_refers_to_anything_outside(html):
    """Links lead to the files of the run, which lie in its work folder; nothing else has an address."""
    for tag, attributes in Elements(html).tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        if tag == "a":
            assert re.match(r"(\.\./)*[\w/.-]+$", attributes["href"])
            continue
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            assert re.match(r"data:image/|#|$", attributes.get(name) or ""), (tag, attributes)
    assert not re.search(r"url\((?!#)|@import|https?:|//[a-z]+\.", html)
    assert "default-src 'none'" in html


def test_the_page_links_to_the_results_and_the_files_of_each_arm(report, results_path, html):
    links = [attributes["href"] for tag, attributes in Elements(html).tags if tag == "a"]
    places = [(report / link).resolve() for link in links]
    work = results_path.parent.resolve()
    assert places[:3] == [work / "results.json", report / "table.md", report / "table.tex"]
    files = [path for paths in sample.ORIGIN.artefacts.values() for path in paths.values()]
    assert sorted(places[3:]) == sorted(work / file for file in files)


def test_the_page_says_how_it_was_made_and_whom_to_cite(html):
    shown = re.sub("</?span>", "", html)
    assert sample.ORIGIN.command in shown and "jax 0.10.2" in html and "1\u00a0×\u00a0cpu" in html
    cited = set(re.findall(r"@\w+\{(\w+),", html))
    assert cited == {
        "radford2021clip",
        "rombach2022ldm",
        "yeo2024controlled",
        "meng2022sdedit",  # the arm adversarial-sdedit
        "hendrycks2019benchmarking",  # Common Corruptions
        "kar2022corruptions",  # 3D Common Corruptions
    }


def test_every_picture_is_described_or_decoration(html):
    images = [attributes for tag, attributes in Elements(html).tags if tag == "img"]
    assert images and all("alt" in image for image in images)
    described = [image["alt"] for image in images if image["alt"]]
    assert "Generated: image 1, Adversarial prompt adversarial 0, step 0" in described


def test_what_looks_the_same_is_on_the_page_once(report):
    data = re.search(r'id="data"[^>]*>(.*?)</script>', (report / "index.html").read_text())
    uris = json.loads(data[1])["pictures"]
    assert len(uris) == len(set(uris))


def test_the_explorer_begins_with_the_prompt_of_most_steps(sampled):
    """A prompt that stopped at once would be a poor beginning; one without steps is left out."""
    prompts = [
        {"index": i, "arm": "adversarial", "examples": [{"frames": [None] * frames}]}
        for i, frames in enumerate((2, 5, 1, 9, 9))
    ]
    explored = page._explored(prompts, arm_styles(sampled))
    assert explored[0]["prompts"] == [3, 4, 1, 0]
    groups = page._groups([{"index": 9, "arm": "agnostic", "examples": [0], "target": None}], {"agnostic": 0})
    groups += page._groups([{**prompt, "target": None} for prompt in prompts[1:]], {"adversarial": 0})
    assert page._start(groups, explored) == 2, "the gallery begins with the same prompt, the third of its arm"
    assert page._start(groups, []) == 0


def test_ids_are_there_once(html):
    ids = [attributes["id"] for _, attributes in Elements(html).tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_the_numbers_are_on_the_page(html, sampled):
    assert re.search(r"has\s+learned to look away", html)
    assert "Each image is generated from\na depth map of" in html
    assert "3 seeds" in html and "optimize.\u200bearly_stop.\u200bthreshold" in html


def test_a_picture_that_is_missing_is_named_and_nothing_is_written(copy, tmp_path):
    missing = copy.parent / "pictures/0/adversarial-0-20-error.png"
    missing.unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(str(missing))):
        page.write_page(copy, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_picture_that_cannot_be_read_is_named(copy, tmp_path):
    broken = copy.parent / "pictures/0/depth.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(ValueError, match=re.escape(f"picture {broken} cannot be read")):
        page.write_page(copy, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_a_report_is_replaced_whole(bare, tmp_path):
    folder = tmp_path / "report"
    first = page.write_page(bare, folder).read_bytes()
    (folder / "index.html").write_text("an older one")
    assert page.write_page(bare, folder).read_bytes() == first
    assert {path.name for path in folder.iterdir()} == {"index.html", "table.md", "table.tex"}


def test_results_with_nothing_but_a_control_make_a_page(bare, tmp_path):
    html = page.write_page(bare, tmp_path / "report").read_text()
    assert "10.00" in html and "One seed." in html and "Figure 1" not in html


def test_names_are_text_whatever_they_hold(copy, tmp_path):
    content = json.loads(copy.read_text())
    evil = '</script><script>alert("$x$")</script>'
    content["title"], content["label"] = evil, "edge map"
    for prompt in content["prompts"]:
        prompt["name"] = evil
        prompt["losses"] = {evil + name: values for name, values in prompt["losses"].items()}
        prompt["words"] = [[[evil, 0.5]]]
    copy.write_text(json.dumps(content))
    html = page.write_page(copy, tmp_path / "report").read_text()
    assert "<script>alert" not in html and "The label, an edge map, stays" in html
    assert sum(tag == "script" for tag, _ in Elements(html).tags) == 3


def test_large_pictures_are_made_smaller_and_small_ones_stay_as_they_are(tmp_path):
    image = np.random.default_rng(0).random((600, 700, 3))
    pictures.save(tmp_path / "large.png", image)
    pictures.save(tmp_path / "small.png", image[:64, :64])
    uri, small = embedded.data_uri(tmp_path / "large.png")
    assert uri.startswith("data:image/webp;base64,") and not small
    assert Image.open(tmp_path / "large.png").size == (700, 600)
    uri, small = embedded.data_uri(tmp_path / "small.png")
    assert uri.startswith("data:image/webp;base64,") and small
    shown = Image.open(BytesIO(base64.b64decode(uri.partition(",")[2])))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(Image.open(tmp_path / "small.png")))


def test_only_several_seeds_have_bars_of_standard_errors(html, copy):
    page.write_page(copy, copy.parent)
    alone = (copy.parent / "index.html").read_text()
    assert html.count("Bars are standard errors over seeds.") >= 2
    assert "under each corruption" in alone and "Bars are standard errors" not in alone
