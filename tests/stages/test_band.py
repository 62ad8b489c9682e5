"""A difficulty band: which images it keeps, and that it reaches their number, resumed and in any batches."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from gap_jax.stages.band import Band
from gap_jax.stages.generate import Filter, generate, plan
from tests.stages.test_generate import COLOURS, DEPTH, SOURCES, examples, load, make_images

BAND = Band("error", 0.25, 0.7, 9)


def run(folder, images_per_step=4, planned=None, band=BAND, load=load, step=make_images, **options):
    return generate(
        step,
        COLOURS,
        load,
        planned or plan(band.most_candidates, [np.arange(SOURCES)] * len(COLOURS), 0),
        images_per_step=images_per_step,
        seed=0,
        folder=folder,
        config={},
        prompt_names=("<a>", "<b>"),
        band=band,
        **options,
    )


def images(folder):
    return [example["image"].tobytes() for example in examples(folder)]


@pytest.fixture(scope="module")
def banded(tmp_path_factory):
    """The folder of a run with the band, and its summary."""
    folder = tmp_path_factory.mktemp("banded")
    return folder, run(folder)


def test_it_keeps_the_images_between_the_quantiles_and_reaches_their_number(banded, tmp_path):
    folder, summary = banded
    assert summary["images"] == len(examples(folder)) == BAND.images
    lines = (folder / "images" / "train" / "metadata.jsonl").read_text().splitlines()
    kept = [json.loads(line)["error"] for line in lines]

    planned = plan(BAND.most_candidates, [np.arange(SOURCES)] * len(COLOURS), 0)
    black = planned.source == 3
    every = Band("error", 0.0, 1.0, int((~black).sum()))
    run(tmp_path, planned=planned, band=every)
    lines = (tmp_path / "images" / "train" / "metadata.jsonl").read_text().splitlines()
    errors = np.full(len(black), np.nan)
    errors[~black] = [json.loads(line)["error"] for line in lines]
    for count in range(1, len(errors) + 1):  # as many candidates as it takes
        candidates = errors[:count][~black[:count]]
        low, high = np.quantile(candidates, (BAND.low, BAND.high)) if len(candidates) else (1, 0)
        inside = candidates[(candidates >= low) & (candidates <= high)]
        if len(inside) >= BAND.images:
            break
    np.testing.assert_array_equal(kept, inside[: BAND.images])
    dropped = summary["dropped"]
    assert dropped["error below the band"] == (candidates < low).sum()
    assert dropped["error above the band"] == (candidates > high).sum()
    assert dropped["one colour"] > 0
    made = -(-count // 4) * 4
    assert BAND.images + sum(dropped.values()) == made


def test_it_does_not_depend_on_the_size_of_batches(banded, tmp_path):
    run(tmp_path, images_per_step=3)
    assert images(tmp_path) == images(banded[0])


@pytest.mark.parametrize("after", [1, 4])
def test_killed_and_started_again_it_ends_the_same(banded, tmp_path, after):
    loaded = []

    def dies(sources):
        if len(loaded) == after:
            raise KeyboardInterrupt
        loaded.append(sources)
        return load(sources)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, load=dies)
    assert run(tmp_path) == banded[1] and images(tmp_path) == images(banded[0])


def test_images_that_filters_drop_are_replaced_and_have_no_rank(tmp_path):
    def with_losses(weights, batch, keys):
        pictures, values = make_images(weights, batch, keys)
        loss = jnp.where(batch["depth"][:, 0, 0, 0] == DEPTH[5, 0, 0, 0], jnp.nan, values["error"])
        return pictures, {**values, "loss": loss}

    band = Band("loss", 0.0, 0.5, 4)
    summary = run(tmp_path, band=band, step=with_losses, filters=(Filter("error", low=0.3),))
    assert summary["images"] == 4 and summary["dropped"]["loss"] > 0 and summary["dropped"]["error"] > 0
    lines = (tmp_path / "images" / "train" / "metadata.jsonl").read_text().splitlines()
    assert all(json.loads(line)["loss"] >= 0.3 for line in lines)


def test_equal_losses_are_all_inside_and_no_more_are_kept_than_asked_for(tmp_path):
    def constant(weights, batch, keys):
        return make_images(weights, batch, keys)[0], {"error": jnp.ones(len(keys))}

    summary = run(tmp_path, band=Band("error", 0.4, 0.6, 5), step=constant)
    assert summary["images"] == 5 and set(summary["dropped"]) <= {"surplus", "one colour"}


def test_a_plan_that_ends_too_early_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="fewer than 9 of 144 generated images are kept: filters drop too many"
    ):
        band = BAND._replace(low=0.25, high=0.5)
        run(tmp_path, band=band, filters=(Filter("error", low=2.0),))
