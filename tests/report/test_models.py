"""The report of several models: a matrix of their errors, and their predictions side by side."""

import dataclasses
import re

import pytest

from gap_jax.report import page, tables
from gap_jax.report.results import ModelsExample, ModelsRow, load, save
from tests.report import sample

ERRORS = {  # by kind of images and by model, in L1
    "original images": {"f": 0.03, "resnet_50": 0.02},
    "prompts against f": {"f": 0.14, "resnet_50": 0.05},
    "prompts against resnet_50": {"f": 0.06, "resnet_50": 0.12},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The file of results of two models on three kinds of images. Tests must not change it."""
    path = sample.write(tmp_path_factory.mktemp("models"), examples=1, prompts=1, seeds=(0, 1))
    results = load(path)
    frame, example = results.prompts[-1].examples[0].frames[-1], results.prompts[-1].examples[0]
    pictures = (frame.prediction, frame.error)
    shown = ModelsExample(example.label, frame.generated, {"f": pictures, "resnet_50": pictures[::-1]})
    rows = [
        ModelsRow(
            name,
            {
                model: {metric: (error, error + 0.02) for metric in results.metrics}
                for model, error in errors.items()
            },
            (shown,) * 3,
        )
        for name, errors in ERRORS.items()
    ]
    save(path, dataclasses.replace(results, models=tuple(rows)))
    return path


def test_the_matrix_has_a_row_for_each_kind_of_images_and_a_column_for_each_model(path):
    table = tables.models(load(path), "l1")
    assert table.columns == ("f", "resnet_50")
    cells = {row.label: [f"{cell.mean} ± {cell.error}" for cell in row.cells] for row in table.rows}
    assert cells == {  # means over two seeds, times 100
        "Original images": ["4.00 ± 1.00", "3.00 ± 1.00"],
        "Prompts against f": ["15.00 ± 1.00", "6.00 ± 1.00"],
        "Prompts against resnet_50": ["7.00 ± 1.00", "13.00 ± 1.00"],
    }
    titles = [table.title for table in tables.all_tables(load(path))]
    assert titles[-len(load(path).metrics)] == "Several models in L1"


def test_the_page_shows_the_matrix_and_the_predictions_of_all_models_side_by_side(path, tmp_path):
    html = page.write_page(path, tmp_path / "report").read_text()
    section = html[html.index("Do other models fail on the same images?") :]
    section = section[: section.index("</section>")]
    assert "Prompts against resnet_50</th><td>7.00<small> ± 1.00</small></td><td>13.00<small> ±" in section
    for model in ("f", "resnet_50"):
        for part in ("Prediction", "Error"):
            for number in (1, 2):
                assert f'alt="{part} of {model}, Prompts against f, image {number}"' in section
    pairs = re.findall(r'<img src="([^"]+)" alt="Prediction of (\w+), Prompts against f, image 1"', section)
    assert len(pairs) == 2 and pairs[0][0] != pairs[1][0]


def test_one_value_for_each_seed_is_asked_for(path):
    results = load(path)
    row = results.models[0]
    wrong = dataclasses.replace(row, scores={"f": {"l1": (0.1,)}})
    with pytest.raises(
        ValueError, match=r"models\[0\]\.scores\.f\.l1 must have one value for each of 2 seeds"
    ):
        dataclasses.replace(results, models=(wrong,))


def test_one_model_has_no_matrix(sampled, report):
    assert tables.models_tables(sampled) == []
    assert "Do other models" not in (report / "index.html").read_text()
