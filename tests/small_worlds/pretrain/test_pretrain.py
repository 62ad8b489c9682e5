"""The recipes of the small worlds, shortened: trained, killed and gone on with, exported, probed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import jax
import numpy as np
import pytest

import gap_jax
from gap_jax.diffusion.align import Sampling
from gap_jax.small_worlds import rooms, wildlife
from gap_jax.small_worlds.pretrain import __main__ as pretrain
from gap_jax.small_worlds.pretrain import parts as pretrain_parts
from gap_jax.small_worlds.pretrain import recipes as pretrain_recipes
from gap_jax.small_worlds.pretrain import wildlife as pretrain_wildlife
from gap_jax.small_worlds.probe import measures as probing
from gap_jax.small_worlds.probe import rooms as probe
from gap_jax.small_worlds.probe import wildlife as probe_wildlife
from gap_jax.stages.classifier_tuning import STATISTICS, fine_tuning
from gap_jax.weights.classifier import load_classifier

GENERATOR = ("vae", "clip", "diffusion", "refine", "polish")
CLASSIFIERS = ("animals", "waterbirds", "waterbirds_critic", "iwildcam", "iwildcam_critic")
PARTS = {"rooms": (*GENERATOR, "depth", "critic"), "wildlife": (*GENERATOR, *CLASSIFIERS)}
FILES = {"rooms": 7, "wildlife": 8}


def start(world, work, cache):
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
    }
    command = [sys.executable, "-m", "gap_jax.small_worlds.pretrain", "--world", world, "--work", str(work)]
    command.append("--few")
    for part in PARTS[world]:
        flag = part.replace("_", "-")
        command += [f"--{flag}.steps", "4", f"--{flag}.batch", "4"]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process):
    output, _ = process.communicate(timeout=3600)
    assert process.returncode == 0, output.decode()


def weights(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """`trained(world)`, made once: a finished recipe's folder, and the cache of what was compiled for it."""
    made = {}

    def make(world):
        if world not in made:
            made[world] = tmp_path_factory.mktemp(world)
            finish(start(world, made[world] / "whole", made[world] / "cache"))
        return made[world]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("world", PARTS)
def test_killed_in_every_part_it_ends_with_the_same_weights(world, trained):
    folder = trained(world)
    work, name = folder / "killed", pretrain.WORLDS[world].folder
    for part in PARTS[world]:
        process = start(world, work, folder / "cache")
        while not (work / part / "checkpoints" / "2").exists():
            assert process.poll() is None, process.communicate()[0].decode()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (work / name / PARTS[world][-1]).exists()
    finish(start(world, work, folder / "cache"))
    expected = weights(folder / "whole" / name)
    assert len(expected) == FILES[world] and weights(work / name) == expected


@pytest.mark.slow
def test_what_it_writes_of_rooms_is_probed(trained, tmp_path):
    small = trained("rooms") / "whole" / "small"
    config = probe.RoomsProbe(
        model=str(small),
        clip=str(small / "clip"),
        depth=str(small),
        rooms_per_style=1,
        output=tmp_path / "probe.json",
    )
    found = probe.main(config)
    assert json.loads((tmp_path / "probe.json").read_text()) == found
    assert set(found["clip_zero_shot"]) == set(rooms.AXES)
    assert found["vae_psnr"]["mean"] > 15
    assert found["label_fidelity"]["5_steps_over_real"]["worst_style"].startswith("a ")


@pytest.mark.slow
def test_what_it_writes_of_wildlife_is_probed(trained, tmp_path):
    folder = trained("wildlife") / "whole" / "wildlife"
    config = probe_wildlife.WildlifeProbe(
        model=str(folder),
        clip=str(folder / "clip"),
        classifiers=str(folder),
        pictures_per_words=1,
        experiment_pictures=12,
        output=tmp_path / "probe.json",
        picture=tmp_path / "probe.png",
    )
    found = probe_wildlife.main(config)
    assert json.loads((tmp_path / "probe.json").read_text()) == found
    assert set(found["clip_zero_shot"]["5_steps_pasted"]) == set(wildlife.AXES)
    assert found["vae_psnr"]["mean"] > 10
    assert list(found["waterbirds"]["groups"])[1:] == list(probe_wildlife.GROUPS)
    assert list(found["iwildcam_critic"]["groups"])[1:] == [f"camera {number}" for number in range(31, 36)]
    assert "zebra" not in found["waterbirds"]["real"] and "zebra" in found["iwildcam"]["moved"]
    assert (tmp_path / "probe.png").stat().st_size > 1000


def test_a_world_has_settings_of_its_own():
    assert pretrain.parse([]) == pretrain_recipes.RoomsRecipe()
    found = pretrain.parse(["--iwildcam-critic.steps", "7", "--world", "wildlife"])
    part = dataclasses.replace(pretrain_recipes.WildlifeRecipe().iwildcam_critic, steps=7)
    assert found == pretrain_recipes.WildlifeRecipe(iwildcam_critic=part)
    assert found.work != pretrain.parse([]).work


@pytest.fixture
def calls(monkeypatch):
    """What `loop.train.train` is called with, in place of training."""
    calls = []
    monkeypatch.setattr(pretrain_parts, "train", lambda *args, **options: calls.append((args, options)))
    return calls


@pytest.mark.parametrize("world", PARTS)
def test_folders_of_rooms_go_on_and_are_not_taken_for_other_worlds(world, calls, tmp_path):
    recipe = dataclasses.replace(pretrain_recipes.RECIPES[world](), work=tmp_path)
    training = pretrain_parts.Training(recipe, pretrain.WORLDS[world])
    training.train("refine", recipe.refine, None, lambda key: jax.random.key_data(key), None, None)
    (_, start, *_), options = calls[0]
    config = {"seed": 0, "dtype": "float32", "few": False}
    config |= dataclasses.asdict(recipe.refine)
    assert options["config"] == config | ({"world": "wildlife"} if world == "wildlife" else {})
    own = jax.random.split(jax.random.fold_in(jax.random.key(0), 5))
    assert options["folder"] == tmp_path / "refine" and options["key"] == own[1]
    np.testing.assert_array_equal(start, jax.random.key_data(own[0]))


@pytest.mark.parametrize("world", PARTS)
def test_captions_leave_words_unsaid_as_often_as_they_should(world):
    training = pretrain_parts.Training(pretrain_recipes.RECIPES[world](), pretrain.WORLDS[world])
    random, words = np.random.default_rng(0), [each[-1] for each in training.world.axes.values()]
    example = {axis: len(known) - 1 for axis, known in training.world.axes.items()}
    captions = [training.caption(example, random, silent=0.1) for _ in range(2000)]
    spoken = [caption.replace(",", "").split() for caption in captions if caption]
    assert len(spoken) / len(captions) == pytest.approx(0.9, abs=0.03)
    for word, share in zip(words, training.world.said(words), strict=True):
        assert np.mean([word in caption for caption in spoken]) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("world", PARTS)
def test_the_vocabulary_holds_every_word_whole(world):
    training = pretrain_parts.Training(pretrain_recipes.RECIPES[world](), pretrain.WORLDS[world])
    for words in training.world.axes.values():
        for word in words:
            ids = training.tokens(word)
            pieces = 3 if word == "dik-dik" else 1  # the hyphen is always one of its own
            assert (ids == ids[-1]).sum() == pretrain_parts.TOKENS - 1 - pieces


def test_the_vocabulary_of_rooms_is_the_shipped_models():
    training = pretrain_parts.Training(pretrain_recipes.RoomsRecipe(), pretrain.WORLDS["rooms"])
    pipe, _ = gap_jax.load_pipeline("small")
    assert training.tokenizer == pipe.tokenizer and training.vocab_size == pipe.text_encoder.vocab_size


@pytest.mark.parametrize("classes", [wildlife.BIRDS, wildlife.MAMMALS])
def test_critics_see_all_pictures_of_their_classes(classes, monkeypatch):
    words = [wildlife.draw_words(0, i) for i in range(60)]
    examples = [
        {axis: known.index(word) for (axis, known), word in zip(wildlife.AXES.items(), each, strict=True)}
        | {"index": i, "label": wildlife.LABELS[each.animal]}
        for i, each in enumerate(words)
    ]
    training = pretrain_parts.Training(pretrain_recipes.WildlifeRecipe(), pretrain_wildlife.WORLD)
    monkeypatch.setattr(training, "source", lambda config, split, **options: examples)
    found = pretrain_wildlife.of_animals(training, classes)
    chosen = [found[i] for i in range(len(found))]
    assert [e["index"] for e in chosen] == [i for i, each in enumerate(words) if each.animal in classes]
    assert {e["label"] for e in chosen} == set(range(len(classes)))


@pytest.mark.parametrize("model", [pretrain_wildlife.SMALL, pretrain_wildlife.LARGE])
def test_batch_norm_follows_and_the_rest_is_trained(model):
    optimizer = fine_tuning(pretrain_parts.rule(pretrain_recipes.Part(10, 4, 1e-2, "muon")))
    params = pretrain_parts.init(model.clone(num_labels=2))(jax.random.key(0))
    gradients = jax.tree.map(np.ones_like, params)
    state = optimizer.init(params)
    for _ in range(2):  # the rate is 0 in the first step
        updates, state = jax.jit(optimizer.update)(gradients, state, params)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        if path[-1].key in STATISTICS:
            np.testing.assert_array_equal(update, -1)
        else:
            assert 0 < np.abs(update).max() < 0.1, path


def test_classifiers_are_small():
    size = 0
    for classes in (wildlife.BIRDS, wildlife.MAMMALS):
        for model in (pretrain_wildlife.SMALL, pretrain_wildlife.LARGE):
            model = model.clone(num_labels=len(classes))
            params = jax.eval_shape(model.init, jax.random.key(0), *model.example_inputs())
            size += sum(2 * leaf.size for leaf in jax.tree.leaves(params))
    assert size < 3e6


def test_means_are_of_the_words_there_are():
    styles = [rooms.Style("red"), rooms.Style("blue"), rooms.Style("grey")]
    values = probing.by_word(np.array([1.0, 2.0, 6.0]), styles, rooms.AXES)
    assert values["mean"] == 3 and values["red"] == 1 and values["plain"] == 3
    assert "foggy" not in values


def test_means_are_of_the_groups_and_cameras_there_are():
    found = probe_wildlife.by_group(np.array([1.0, 0.0, 1.0]), np.array([2, 2, 3]))
    expected = {"mean": 2 / 3, "landbird on water": 0.5, "waterbird on water": 1.0}
    assert found == pytest.approx(expected)
    found = probe_wildlife.by_group(np.array([1.0, 0.0]), np.array([31, -1]))
    assert found == {"mean": 0.5, "camera 31": 1.0}


def test_elsewhere_is_another_place_in_another_light():
    seen = set()
    for turn in range(10):
        for words in probe_wildlife.WORDS:
            found = probe_wildlife.elsewhere(words, turn)
            assert found.animal == words.animal
            assert found.place != words.place and found.light != words.light
            seen.add((words, found))
    assert len(seen) == len(probe_wildlife.WORDS) * 5 * 2


def test_moved_animals_are_kept_exactly_and_their_scene_is_not():
    words = [wildlife.Words("zebra", "savanna"), wildlife.Words("nothing", "sea", "night")]
    batch = wildlife.render(1, range(2), words).as_batch()
    wanted = [probe_wildlife.elsewhere(each, 0) for each in words]
    found = probe_wildlife.moved(1, batch, wanted)
    keep = np.broadcast_to(batch["keep"], found.shape)
    np.testing.assert_array_equal(found[keep], batch["image"][keep])
    expected = wildlife.render(1, range(2), [each._replace(animal="nothing") for each in wanted]).image / 255
    np.testing.assert_allclose(found[~keep], expected[~keep], atol=1e-6)


def test_zero_shot_finds_the_words_of_any_axes(monkeypatch, clip):
    axes = {"animal": ("cat", "dog"), "place": ("a room", "a photo", "room")}

    def caption(words, known):
        return ", ".join(word for word, said in zip(words, known, strict=True) if said)

    words = [("cat", "a photo"), ("dog", "room"), ("dog", "a room")]
    texts = clip.clip.tokenize([place for _, place in words])
    features = clip.clip.text_features(clip.params, texts, projected=True)
    monkeypatch.setattr(  # an image is its number
        type(clip.clip),
        "image_features",
        lambda self, params, images, projected: features[images.astype(int)],
    )
    found = probing.zero_shot(clip.clip, clip.params, np.arange(3.0), words, axes, caption)
    assert list(found) == ["animal", "place"] and found["place"] == 1
    wrong = [(animal, place) for (animal, _), (_, place) in zip(words, words[1:] + words[:1], strict=True)]
    assert probing.zero_shot(clip.clip, clip.params, np.arange(3.0), wrong, axes, caption)["place"] == 0


def test_equal_captions_and_labels_give_images_of_their_own(sd15):
    pipe = dataclasses.replace(sd15.pipe, controlnet=None)
    side = 8 * pipe.downscale
    image = np.random.default_rng(0).random((side, side, 3), np.float32)
    batch = {"image": np.stack([image] * 3), "keep": np.zeros((3, side, side, 1), bool)}
    sampling = Sampling(num_steps=2, guidance_scale=2.0, eta=1.0)
    make = partial(probing.generated, pipe, sd15.params, ["a room"] * 3)
    found = make(batch, probe_wildlife.INPAINT, sampling)
    assert found.shape == batch["image"].shape
    assert min(np.abs(found[i] - found[i - 1]).mean() for i in range(3)) > 1e-3
    np.testing.assert_array_equal(make(batch, probe_wildlife.INPAINT, sampling), found)


def test_the_mean_map_predicts_better_than_any_one_room():
    mean = probe.mean_map(64)
    truth = rooms.render(rooms.SPLITS["validation"], range(32), [rooms.Style()] * 32)
    own = probe.l1(np.broadcast_to(mean, truth.depth.shape), truth).mean()
    others = [probe.l1(np.broadcast_to(depth, truth.depth.shape), truth).mean() for depth in truth.depth[:8]]
    assert own < min(others)


def test_psnr_by_hand():
    images = np.zeros((1, 4, 4, 3), np.float32)
    assert probing.psnr(images, images + 0.1)[0] == pytest.approx(20, abs=1e-4)


LOADERS = {
    ("small", ""): gap_jax.load_pipeline,
    ("small", "clip"): gap_jax.load_clip,
    ("small", "depth"): gap_jax.load_depth,
    ("small", "critic"): lambda name: gap_jax.load_depth(name, "critic"),
    ("wildlife", ""): gap_jax.load_pipeline,
    ("wildlife", "clip"): gap_jax.load_clip,
    ("wildlife", "waterbirds"): load_classifier,
    ("wildlife", "iwildcam_critic"): lambda name: load_classifier(name, part="iwildcam_critic"),
}


@pytest.mark.parametrize(("name", "part"), LOADERS)
def test_an_installation_without_weights_says_so(name, part, monkeypatch, tmp_path):
    monkeypatch.setattr("gap_jax.weights.repo.ASSETS", tmp_path)
    with pytest.raises(FileNotFoundError, match=f"this installation of gap_jax lacks .*{name}.*{part}"):
        LOADERS[name, part](name)


def test_a_part_that_a_world_does_not_have_is_told_from_one_that_is_lacking():
    with pytest.raises(FileNotFoundError, match="'wildlife' has no depth: it has clip, waterbirds, "):
        gap_jax.load_depth("wildlife")
    with pytest.raises(FileNotFoundError, match="'small' has no waterbirds: it has clip, depth, critic"):
        load_classifier("small")
