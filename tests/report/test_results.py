import dataclasses
import json
import math
import random
import subprocess
import sys

import numpy as np
import pytest

from gap_jax.report import results
from gap_jax.report.results import (
    ArmStyle,
    Column,
    ExamplePictures,
    Frame,
    Generated,
    Legend,
    Point,
    Prompt,
    Results,
)
from gap_jax.tasks.metric import MetricStyle

FRAME = Frame(0, "generated.png", "prediction.png", "error.png")


def small(**changes):
    """Return results of two seeds with two arms and one prompt."""
    fields = {
        "title": "A title",
        "summary": "",
        "label": "depth map",
        "legends": {"label": Legend("near", "far", ("#000000", "#ffffff"))},
        "note": "",
        "config": {"optimize": {"lr": 0.01, "words": ["a", None]}},
        "seeds": (0, 7),
        "arms": {"control": ArmStyle("Control", "No images are added.", "#7c7c7c", "o")},
        "metrics": {
            "l1": MetricStyle("L1", "×100", 100),
            "delta1": MetricStyle("δ < 1.25", "in %", 100, True),
        },
        "columns": (
            Column("clean", "rooms", None, {"control": {"l1": (0.1, 0.2)}, "constant": {"l1": (0.3, 0.3)}}),
            Column("cc", "fog", 3, {"control": {"l1": (0.4, math.nan)}}),
        ),
        "generated": {"adversarial": Generated(90, {"degenerate": 2}, (0.05, 0.06))},
        "critic_real": (0.02, 0.02),
        "critic_constant": (),
        "efficiency": {"foggy": {"adversarial": (Point(0, (0.2, 0.2)), Point(10, (0.1, 0.1)))}},
        "prompts": (
            Prompt(
                arm="guided",
                seed=7,
                name="foggy 0",
                losses={"guidance": (0.3, 0.2)},
                examples=(ExamplePictures("depth.png", "original.png", (FRAME,)),),
                stopped=1,
                words=((("fog", 0.5), ("mist", 0.25)), ()),
                target="foggy",
                targets=("target.png",),
            ),
        ),
    }
    return Results(**fields | changes)


def test_what_is_saved_is_loaded(tmp_path):
    results.save(tmp_path / "new" / "results.json", small())
    loaded = results.load(tmp_path / "new" / "results.json")
    assert math.isnan(loaded.columns[1].scores["control"]["l1"][1])
    column = dataclasses.replace(loaded.columns[1], scores=small().columns[1].scores)
    assert dataclasses.replace(loaded, columns=(loaded.columns[0], column)) == small()


def test_floats_come_back_to_the_last_bit(tmp_path):
    draw = random.Random(0)
    values = (*(draw.uniform(-1, 1) ** 9 for _ in range(1000)), 5e-324, 1.7e308, 0.1 + 0.2)
    path = tmp_path / "results.json"
    results.save(
        path, small(seeds=tuple(range(1003)), columns=(), critic_real=values, generated={}, efficiency={})
    )
    assert results.load(path).critic_real == values


def test_nan_and_infinity_are_null_in_the_file_and_nan_when_read(tmp_path):
    path = tmp_path / "results.json"
    results.save(path, small(critic_real=(math.nan, math.inf)))
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert content["critic_real"] == [None, None]
    assert all(map(math.isnan, results.load(path).critic_real))


def test_numpys_numbers_are_saved_as_what_they_are(tmp_path):
    path = tmp_path / "results.json"
    numbers = {"seeds": tuple(np.arange(2)), "critic_real": tuple(np.float32([0.1, 0.2]))}
    results.save(path, small(**numbers, prompts=(), config={"lr": np.float32([0.5])}))
    loaded = results.load(path)
    assert loaded.seeds == (0, 1) and loaded.config == {"lr": [0.5]}
    assert loaded.critic_real == (float(np.float32(0.1)), float(np.float32(0.2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("title"), "title is missing"),
        (lambda r: r.update(extra=1), "extra is unknown: Results has title, summary, "),
        (lambda r: r.update(seeds=[0, 0]), r"seeds must be one or more, all different; found \[0, 0\]"),
        (lambda r: r.update(seeds=[0, 1.5]), r"seeds\[1\] must be an integer, found 1.5"),
        (lambda r: r.update(seeds=[0, True]), r"seeds\[1\] must be an integer, found true"),
        (lambda r: r.update(columns={}), "columns must be a list, found {}"),
        (lambda r: r["columns"][1].update(kind="ccc"), r"columns\[1\].kind must be one of .*, found 'ccc'"),
        (
            lambda r: r["columns"][1].update(severity=6),
            r"columns\[1\].severity must be 1 to 5 for a corruption, found 6",
        ),
        (
            lambda r: r["columns"][0].update(severity=1),
            r"columns\[0\].severity must be null for kind 'clean', found 1",
        ),
        (
            lambda r: r["columns"].append(r["columns"][0]),
            r"columns must differ; 2 have kind 'clean', name 'rooms' and severity None",
        ),
        (
            lambda r: r["columns"][0]["scores"]["control"].update(l1=[0.1, "0.2"]),
            r"columns\[0\].scores.control.l1\[1\] must be a number or null, found \"0.2\"",
        ),
        (
            lambda r: r["columns"][0]["scores"]["control"].update(l1=[0.1]),
            r"columns\[0\].scores.control.l1 must have one value for each of 2 seeds, found 1",
        ),
        (
            lambda r: r["columns"][0]["scores"]["control"].update(l2=[0.1, 0.2]),
            r"columns\[0\].scores must use the metrics l1, delta1; found l2",
        ),
        (lambda r: r["generated"]["adversarial"].pop("kept"), "generated.adversarial.kept is missing"),
        (
            lambda r: r.update(critic_real=[0.1]),
            "critic_real must have one value for each of 2 seeds, found 1",
        ),
        (
            lambda r: r["efficiency"]["foggy"]["adversarial"].reverse(),
            r"efficiency.foggy.adversarial must have rising numbers of images from 0 on, found \[10, 0\]",
        ),
        (
            lambda r: r["prompts"][0].update(seed=3),
            r"prompts\[0\].seed must be one of the seeds \[0, 7\], found 3",
        ),
        (lambda r: r["prompts"][0].update(stopped=9), r"prompts\[0\].stopped must be a step from 0 to 2"),
        (
            lambda r: r["prompts"][0]["losses"].update(adversarial=[0.1]),
            r"prompts\[0\].losses must have the same number of steps for every term",
        ),
        (lambda r: r["prompts"][0]["words"][0][0].pop(), r"prompts\[0\].words\[0\]\[0\] must have 2 entries"),
        (
            lambda r: r["prompts"][0]["examples"][0].update(frames=[]),
            r"prompts\[0\].examples\[0\].frames must be one or more, with rising steps from 0 on; found",
        ),
        (
            lambda r: r["prompts"][0]["examples"][0]["frames"][0].update(step=5),
            r"prompts\[0\].examples\[0\] has a frame of step 5, but the losses have 2 steps",
        ),
    ],
)
def test_a_malformed_file_is_refused_by_the_fields_name(tmp_path, change, message):
    path = tmp_path / "results.json"
    results.save(path, small())
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"results\.json is not a valid results file: " + message):
        results.load(path)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"title": NaN}'])
def test_what_is_no_results_at_all_is_refused(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"results\.json is not a valid results file"):
        results.load(path)


def test_what_json_does_not_have_is_refused_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    results.save(path, small())
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"config\.work is a PosixPath, which JSON cannot hold: convert it"):
        results.save(path, small(config={"work": tmp_path}))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_reading_results_needs_neither_matplotlib_nor_jinja():
    code = "import sys; import gap_jax.report.results; print({'matplotlib', 'jinja2'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"
