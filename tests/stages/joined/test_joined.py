"""Populations that run as one: which of them do, and that each ends as it does alone."""

import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from gap_jax import parallel
from gap_jax.stages.joined import groups, join
from gap_jax.stages.optimize import load_trajectory
from tests.metric_lines import read_metrics
from tests.stages.joined.joined_runs import populations, run


@pytest.mark.parametrize(
    ("devices", "images", "prompts", "expected"),
    [
        (1, 8, [8, 8], [[0], [1]]),  # nothing idles
        (64, 8, [8, 8], [[0], [1]]),
        (128, 8, [8, 8, 8], [[0, 1], [2]]),
        (960, 8, [8] * 15, [list(range(15))]),  # (1 + 2 × 2) arms and targets, 3 seeds
        (8, 4, [1, 1, 1], [[0, 1], [2]]),
        (16, 4, [4, 2, 2, 1], [[0], [1, 2], [3]]),
        (8, 4, [], []),
    ],
)
def test_populations_run_together_where_devices_would_idle(devices, images, prompts, expected):
    assert groups(devices, images, prompts) == expected
    for group in expected:
        together = parallel.layout(devices, images, sum(prompts[i] for i in group))
        apart = [parallel.layout(devices, images, prompts[i]) for i in group]
        assert together.images_each * together.prompts_each <= max(
            each.images_each * each.prompts_each for each in apart
        )


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder and the embeddings of populations that run as one."""
    folder = tmp_path_factory.mktemp("together")
    return folder, run(populations(folder))


def test_each_population_ends_as_it_does_alone(together, tmp_path):
    folder, embeddings = together
    apart = [run([population]) for population in populations(tmp_path)]
    np.testing.assert_allclose(embeddings, np.concatenate(apart), rtol=1e-5, atol=1e-6)
    lengths = [len(read_metrics(tmp_path / name)) for name in "123"]
    assert 2 <= lengths[0] < 7 and lengths[1:] == [3, 7]  # the first stops early
    for name in "123":
        mine, its = load_trajectory(folder / name), load_trajectory(tmp_path / name)
        assert mine.keys() == its.keys()
        for metric in mine:
            np.testing.assert_allclose(mine[metric], its[metric], rtol=1e-5, atol=1e-6, err_msg=metric)
        assert [line["step"] for line in read_metrics(folder / name)] == list(range(1, len(mine["loss"]) + 1))
        for path in (tmp_path / name).rglob("*.png"):
            pictures = (
                np.asarray(Image.open(root / path.relative_to(tmp_path)), int) for root in (folder, tmp_path)
            )
            assert abs(np.subtract(*pictures)).max() <= 1
    assert {path.parent.parent.name for path in folder.rglob("*.png")} >= {"2", "3"}


def test_a_run_that_stops_goes_on_from_each_populations_own_checkpoint(together, tmp_path):
    runs = populations(tmp_path)

    def dies(step, rows):
        if step == 2:
            raise KeyboardInterrupt
        return runs[2].load(step, rows)

    with pytest.raises(KeyboardInterrupt):
        run([*runs[:2], runs[2]._replace(load=dies)])
    shutil.rmtree(tmp_path / "3" / "checkpoints" / "2")  # the third population begins anew
    np.testing.assert_array_equal(run(populations(tmp_path)), together[1])
    for name in "123":
        assert read_metrics(tmp_path / name) == read_metrics(together[0] / name)


def test_weights_of_other_shapes_do_not_run_as_one(tmp_path):
    first, second, _ = populations(tmp_path)
    weights = second.optimizer.weights
    other = weights._replace(terms=(weights.terms[0], (*weights.terms[1][:2], np.zeros(4, np.float32))))
    mesh = parallel.make_mesh(devices=jax.devices()[:1])
    with pytest.raises(ValueError, match="run as one only if the arrays of their weights have the same"):
        join([first.optimizer, second.optimizer._replace(weights=other)], [], [2, 1], mesh)
