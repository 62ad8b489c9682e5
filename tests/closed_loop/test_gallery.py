"""The pictures of a report are the images that generation draws: same strength, suffix, steps and noise."""

import json

import numpy as np
import pytest
from PIL import Image

from gap_jax.closed_loop.gallery import Gallery
from gap_jax.closed_loop.programs import Programs
from gap_jax.closed_loop.run import Run
from gap_jax.closed_loop.settings import Evaluating, Generating, Optimizing, Settings
from gap_jax.experiments.depth.settings import SmallRooms
from gap_jax.experiments.depth.small_world import build

SETTINGS = Settings(
    arms=("adversarial-sdedit",),
    optimizing=Optimizing(prompts=1, steps=1, batch=2, denoising_steps=2),
    generating=Generating(images=4, batch=2, denoising_steps=3, suffix=", red"),
    evaluating=Evaluating(images=2, severities=(1,), efficiency=()),
)


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """A run whose four images have the four rooms as sources, and its work."""
    work = tmp_path_factory.mktemp("work")
    run = Run(Programs(SETTINGS, build(SmallRooms(original=4), held_out=2)), work, seed=0)
    (produced,) = run.run_until("generate")
    return run, produced, work


def test_sdedits_pictures_are_its_generated_images(generated):
    run, produced, work = generated
    (prompts,) = produced.prompt_sets
    examples = Gallery(run, work).examples(produced, prompts, 0, 0, {1: prompts.embeddings[0]})
    train = produced.generated / "images" / "train"
    by_source = {}
    for line in map(json.loads, (train / "metadata.jsonl").read_text().splitlines()):
        by_source[line["source_id"]] = np.asarray(Image.open(train / line["file_name"]), int)
    assert sorted(by_source) == [0, 1, 2, 3]
    for source, example in enumerate(examples):
        (frame,) = example.frames
        picture = np.asarray(Image.open(work / frame.generated), int)
        assert np.abs(picture - by_source[source]).max() <= 1  # rounding of another batch size
        original = np.asarray(Image.open(work / example.original), int)
        assert np.abs(picture - original).mean() > 3


def test_the_suffix_and_the_strength_are_seen(generated):
    run, produced, _ = generated
    (prompts,) = produced.prompt_sets
    with_suffix = run.programs.contexts(prompts)
    pipe, params = run.world.generator.pipe, run.world.generator.params
    ids = pipe.tokenize(["<0>,<1>,<2>, red"], 3)
    np.testing.assert_array_equal(with_suffix[0], pipe.encode_text(params, ids, prompts.embeddings[0])[0])
    plain = pipe.encode_text(params, pipe.tokenize(["<0>,<1>,<2>"], 3), prompts.embeddings[0])[0]
    assert np.abs(with_suffix[0] - plain).max() > 0.01
