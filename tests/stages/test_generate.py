"""Generating a data set: plans, labels, resume, filters, difficulty bands, and both formats on disk."""

import json
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from gap_jax.data import generated
from gap_jax.data.image_folder import ImageFolder
from gap_jax.data.prepared import Prepared
from gap_jax.stages.band import Band
from gap_jax.stages.generate import Filter, generate, plan

SOURCES, SIZE = 7, 16
DEPTH = np.random.default_rng(0).random((SOURCES, SIZE, SIZE, 1), np.float32)
MASK = DEPTH > 0.1


def load(sources):
    return {"depth": DEPTH[sources], "mask": MASK[sources]}


def make_images(weights, batch, keys):
    """Return depth in the prompt's colour with noise, black for source 3, and the mean of each image."""
    noise = jax.vmap(lambda key: jax.random.uniform(key, (SIZE, SIZE, 3)))(keys)
    images = weights[batch["prompt"]][:, None, None] * batch["depth"] * 0.8 + 0.2 * noise
    black = (batch["depth"] == DEPTH[3]).all((1, 2, 3))
    return jnp.where(black[:, None, None, None], 0.0, images), {"error": images.mean((1, 2, 3))}


COLOURS = jnp.array([[1.0, 0.5, 0.2], [0.1, 0.9, 0.4]])


def run(folder, count=20, images_per_step=4, seed=0, load=load, step=make_images, **options):
    planned = plan(count, [np.arange(SOURCES)] * len(COLOURS), seed)
    return generate(
        step,
        COLOURS,
        load,
        planned,
        images_per_step=images_per_step,
        seed=seed,
        folder=folder,
        config={"count": count},
        prompt_names=("<a>", "<b>"),
        **options,
    )


def examples(folder):
    """Return the examples of the TFDS data set, sorted by prompt, source and image."""
    summary = json.loads((Path(folder) / "summary.json").read_text())
    source = tfds.builder_from_directory(Path(folder) / summary["tfds"]).as_data_source("train")
    return sorted(source, key=lambda e: (e["prompt_id"], e["source_id"], e["image"].tobytes()))


def test_a_plan_repeats_no_source_before_all_were_used_and_has_prompts_in_even_shares():
    planned = plan(20, [np.arange(SOURCES)] * 2, seed=0)
    assert sorted(planned.source[:SOURCES]) == sorted(planned.source[SOURCES : 2 * SOURCES]) == list(range(7))
    assert all(set(planned.prompt[i : i + 2]) == {0, 1} for i in range(0, 20, 2))
    assert not np.array_equal(planned.source, plan(20, [np.arange(SOURCES)] * 2, seed=1).source)


def test_a_plan_has_prompts_in_proportion_to_their_pools_if_asked_to():
    pools = [np.arange(30), np.arange(30, 40)]
    planned = plan(40, pools, seed=0, proportional=True)
    assert np.bincount(planned.prompt).tolist() == [30, 10]
    for number, pool in enumerate(pools):
        assert sorted(planned.source[planned.prompt == number]) == pool.tolist()
    half = plan(20, pools, seed=0, proportional=True)
    np.testing.assert_array_equal(half.prompt, planned.prompt[:20])


def test_prompts_may_outnumber_the_images():
    planned = plan(2, [np.array([i]) for i in range(5)], seed=0)
    assert len(set(planned.prompt)) == 2 and planned.source.tolist() == planned.prompt.tolist()


def test_a_prompt_has_sources_of_its_own_pool_only():
    pools = [np.array([0, 2, 4]), np.array([5]), np.array([0, 2, 4])]
    planned = plan(18, pools, seed=0)
    assert set(planned.source[planned.prompt == 1]) == {5}
    shared = planned.source[planned.prompt != 1]
    assert sorted(shared[:3]) == sorted(shared[3:6]) == [0, 2, 4]
    with pytest.raises(ValueError, match=r"nothing to generate: found 2 images, 1 prompts, and \[0\] source"):
        plan(2, [np.array([], int)], 0)


def test_both_forms_hold_the_images_with_their_labels(tmp_path):
    summary = run(tmp_path)
    planned = plan(20, [np.arange(SOURCES)] * 2, 0)
    black = int((planned.source == 3).sum())
    assert summary["images"] == 20 - black and summary["dropped"] == {"one colour": black}
    written = examples(tmp_path)
    assert len(written) == summary["images"]
    for example in written:
        source = example["source_id"]
        np.testing.assert_allclose(example["depth"] / 65535, DEPTH[source], atol=1e-5)
        np.testing.assert_array_equal(example["mask"] > 0, MASK[source])
        assert example["text"].decode() == ("<a>", "<b>")[example["prompt_id"]]
        assert example["error"] == pytest.approx(example["image"].mean() / 255, abs=2e-3)
    folder = ImageFolder(tmp_path / "images" / "train", SIZE)
    assert sorted(e["image"].tobytes() for e in folder) == sorted(e["image"].tobytes() for e in written)
    assert set(folder.lines[0]) >= {"source_id", "prompt_id", "seed", "error", "mask_file_name"}
    assert summary["means"] == {"error": np.mean([line["error"] for line in folder.lines])}
    mask = np.asarray(Image.open(tmp_path / "images" / "train" / folder.lines[0]["mask_file_name"]))
    np.testing.assert_array_equal(mask > 0, MASK[folder.lines[0]["source_id"]][..., 0])
    assert not (tmp_path / "chunks").exists()


def test_datasets_reads_the_image_folder(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run(tmp_path / "set")
    rows = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "set" / "images"), cache_dir=str(tmp_path / "cache")
    )["train"]
    lines = (tmp_path / "set" / "images" / "train" / "metadata.jsonl").read_text().splitlines()
    assert len(rows) == len(lines)
    assert [row["source_id"] for row in rows] == [json.loads(line)["source_id"] for line in lines]


def test_an_image_depends_on_seed_source_and_prompt_alone(tmp_path):
    run(tmp_path / "4"), run(tmp_path / "3", images_per_step=3), run(tmp_path / "5", seed=5)
    four, three, other = (examples(tmp_path / name) for name in ("4", "3", "5"))
    assert [e["image"].tobytes() for e in four] == [e["image"].tobytes() for e in three]
    assert not {e["image"].tobytes() for e in four} & {e["image"].tobytes() for e in other}


def test_killed_and_started_again_nothing_is_lost_doubled_or_compiled_twice(tmp_path):
    chex.clear_trace_counter()
    step = chex.assert_max_traces(make_images, n=1)
    loaded = []

    def dies(sources):
        if len(loaded) == 3:
            raise KeyboardInterrupt
        loaded.append(sources)
        return load(sources)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", load=dies, step=step)
    assert len(list((tmp_path / "killed" / "chunks").glob("*.npz"))) == 3
    reloaded = []
    run(tmp_path / "killed", load=lambda sources: reloaded.append(sources) or load(sources), step=step)
    assert len(reloaded) == 2
    run(tmp_path / "whole", step=step)
    killed, whole = (examples(tmp_path / name) for name in ("killed", "whole"))
    assert [e["image"].tobytes() for e in killed] == [e["image"].tobytes() for e in whole]


def test_a_finished_set_is_not_made_again(tmp_path):
    first = run(tmp_path)

    def fails(sources):
        raise AssertionError

    assert run(tmp_path, load=fails) == first


def test_filters_drop_and_count(tmp_path):
    run(tmp_path / "all")
    errors = sorted(example["error"] for example in examples(tmp_path / "all"))
    limit = (errors[4] + errors[5]) / 2
    summary = run(tmp_path / "some", filters=(Filter("error", low=limit),))
    assert summary["images"] == len(errors) - 5
    assert summary["dropped"]["error"] == 5 and "one colour" in summary["dropped"]


def test_a_value_of_several_numbers_is_summarised_over_all_kept_images(tmp_path):
    def counted(weights, batch, keys):
        images, _ = make_images(weights, batch, keys)
        return images, {"counts": jnp.stack([images.sum((1, 2, 3)), batch["depth"].sum((1, 2, 3))], -1)}

    summaries = {"counts": lambda counts: counts[:, 0].sum() / counts[:, 1].sum()}
    means = run(tmp_path, step=counted, summaries=summaries)["means"]
    kept = examples(tmp_path)  # without the black ones
    expected = sum(e["image"].sum() / 255 for e in kept) / sum(e["depth"].sum() / 65535 for e in kept)
    assert means == {"counts": pytest.approx(expected, rel=1e-3)}


def test_a_full_disk_loses_nothing_made(tmp_path, monkeypatch):
    real, calls = np.savez_compressed, []

    def full(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match=r"No space left on device; all earlier chunks are kept"):
        run(tmp_path)
    assert sorted(path.suffix for path in (tmp_path / "chunks").iterdir()) == [".npz", ".npz"]
    assert run(tmp_path)["images"] > 0


def test_a_damaged_chunk_is_named(tmp_path):
    generated.write_chunk(tmp_path, "a", {"image": np.zeros((2, 4, 4, 3), np.uint8)})
    path = tmp_path / "a.npz"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"a.npz is damaged: delete it"):
        list(generated.read_chunks(tmp_path))


def test_classes_have_folders_of_their_own(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), np.uint8)
    records = {"image": images, "label": np.array([1, 0, 1]), "dropped": np.array(["", "", ""])}
    generated.write_chunk(tmp_path / "chunks", "a", records)
    assert generated.write_images(tmp_path / "chunks", tmp_path / "images", ("cat", "dog")) == 3
    names = sorted(str(p.relative_to(tmp_path / "images")) for p in (tmp_path / "images").rglob("*.png"))
    assert names == ["train/cat/000001.png", "train/dog/000000.png", "train/dog/000002.png"]
    generated.write_chunk(tmp_path / "chunks", "a", records | {"keep": images[..., :1] > 9})
    for name in ("../../cat", "keep", "metadata.jsonl"):
        with pytest.raises(ValueError, match=f"the class '{name}' must be renamed"):
            generated.write_images(tmp_path / "chunks", tmp_path / "images", ("cat", name))
    assert names == sorted(str(p.relative_to(tmp_path / "images")) for p in tmp_path.rglob("*.png"))


def test_nothing_to_do_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nothing to generate: found 0 images"):
        plan(0, [np.arange(SOURCES)], 0)
    run(tmp_path)
    with pytest.raises(ValueError, match="count is 24, saved was 20"):
        run(tmp_path, count=24)


BAND = Band("error", 0.25, 0.7, 9)


def run_band(folder, images_per_step=4, planned=None, band=BAND, load=load, step=make_images, **options):
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


def images_in(folder):
    return [example["image"].tobytes() for example in examples(folder)]


@pytest.fixture(scope="module")
def banded(tmp_path_factory):
    """The folder of a run with the band, and its summary."""
    folder = tmp_path_factory.mktemp("banded")
    return folder, run_band(folder)


def test_a_band_keeps_the_images_between_its_quantiles_and_reaches_their_number(banded, tmp_path):
    folder, summary = banded
    assert summary["images"] == len(examples(folder)) == BAND.images
    lines = (folder / "images" / "train" / "metadata.jsonl").read_text().splitlines()
    kept = [json.loads(line)["error"] for line in lines]

    planned = plan(BAND.most_candidates, [np.arange(SOURCES)] * len(COLOURS), 0)
    black = planned.source == 3
    every = Band("error", 0.0, 1.0, int((~black).sum()))
    run_band(tmp_path, planned=planned, band=every)
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


def test_a_band_does_not_depend_on_the_size_of_batches(banded, tmp_path):
    run_band(tmp_path, images_per_step=3)
    assert images_in(tmp_path) == images_in(banded[0])


@pytest.mark.parametrize("after", [1, 4])
def test_a_band_that_is_killed_and_started_again_ends_the_same(banded, tmp_path, after):
    loaded = []

    def dies(sources):
        if len(loaded) == after:
            raise KeyboardInterrupt
        loaded.append(sources)
        return load(sources)

    with pytest.raises(KeyboardInterrupt):
        run_band(tmp_path, load=dies)
    assert run_band(tmp_path) == banded[1] and images_in(tmp_path) == images_in(banded[0])


def test_a_band_replaces_images_that_filters_drop_and_does_not_rank_them(tmp_path):
    def with_losses(weights, batch, keys):
        pictures, values = make_images(weights, batch, keys)
        loss = jnp.where(batch["depth"][:, 0, 0, 0] == DEPTH[5, 0, 0, 0], jnp.nan, values["error"])
        return pictures, {**values, "loss": loss}

    band = Band("loss", 0.0, 0.5, 4)
    summary = run_band(tmp_path, band=band, step=with_losses, filters=(Filter("error", low=0.3),))
    assert summary["images"] == 4 and summary["dropped"]["loss"] > 0 and summary["dropped"]["error"] > 0
    lines = (tmp_path / "images" / "train" / "metadata.jsonl").read_text().splitlines()
    assert all(json.loads(line)["loss"] >= 0.3 for line in lines)


def test_a_band_has_equal_losses_inside_but_keeps_no_more_than_its_number(tmp_path):
    def constant(weights, batch, keys):
        return make_images(weights, batch, keys)[0], {"error": jnp.ones(len(keys))}

    summary = run_band(tmp_path, band=Band("error", 0.4, 0.6, 5), step=constant)
    assert summary["images"] == 5 and set(summary["dropped"]) <= {"surplus", "one colour"}


def test_a_plan_that_ends_before_the_band_is_full_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match="fewer than 9 of 144 generated images are kept: filters drop too many"
    ):
        band = BAND._replace(low=0.25, high=0.5)
        run_band(tmp_path, band=band, filters=(Filter("error", low=2.0),))


DRAW = np.random.default_rng(1)
FIELDS = {  # of every kind, with values that 8 or 16 bits could not hold, and the form in the image folder
    "classes": (DRAW.integers(0, 256, (SOURCES, SIZE, SIZE, 1)).astype(np.uint8), "file_name"),
    "instances": (DRAW.integers(0, 65536, (SOURCES, SIZE, SIZE, 1)), "file_name"),
    "with_ignored": (DRAW.integers(-1, 5, (SOURCES, SIZE, SIZE, 1)), "npy"),
    "metres": (DRAW.normal(0, 300, (SOURCES, SIZE, SIZE, 1)).astype(np.float32), "npy"),
    "normals": (DRAW.normal(0, 1, (SOURCES, SIZE, SIZE, 3)).astype(np.float32), "npy"),
    "boxes": (DRAW.normal(0, 1, (SOURCES, 4, 4)).astype(np.float32), None),
    "present": (DRAW.random((SOURCES, 5)) > 0.5, None),
    "age": (DRAW.normal(0, 1, SOURCES).astype(np.float32), None),
    "is_indoor": (DRAW.random(SOURCES) > 0.5, None),
    "label": (DRAW.integers(0, 9, SOURCES), None),
    "keep": (MASK, "file_name"),
}


def test_labels_of_every_kind_are_kept_without_loss(tmp_path):
    everything = {name: values for name, (values, _) in FIELDS.items()}
    given = {**everything, "caption": np.array([f"room {i}" for i in range(SOURCES)])}
    run(tmp_path, load=lambda sources: load(sources) | {n: v[sources] for n, v in given.items()})
    prepared = Prepared(tmp_path / "tfds", "train", fields=("image", "source_id", *everything))
    images = tmp_path / "images" / "train"
    lines = [json.loads(line) for line in (images / "metadata.jsonl").read_text().splitlines()]
    assert len(prepared) == len(lines) > 10
    for example, line in zip(prepared, lines, strict=True):
        assert example["source_id"] == line["source_id"]
        assert line["caption"] == f"room {line['source_id']}"
        for name, (values, form) in FIELDS.items():
            expected = values[line["source_id"]]
            np.testing.assert_array_equal(example[name], expected, err_msg=name)
            assert example[name].dtype.kind == expected.dtype.kind or name == "classes"
            if form == "npy":
                found = np.load(images / line[f"{name}_npy"])
                assert found.dtype == expected.dtype
            elif form == "file_name":
                found = np.asarray(Image.open(images / line[f"{name}_file_name"]))[..., None]
                found = found > 0 if name == "keep" else found
            else:
                found = np.asarray(line[name], expected.dtype)
            np.testing.assert_array_equal(found, expected, err_msg=name)
    assert Image.open(images / lines[0]["classes_file_name"]).mode == "L"


@pytest.mark.parametrize(
    "name, values, message",
    [
        ("text", DEPTH, "no field of the data may be named text: .* rename yours"),
        ("words", np.array([["a", "b"]] * SOURCES), r"words must have numbers, bools or one string.*\[2\]"),
        ("parts", np.array([{}] * SOURCES), "parts must have numbers.*found object"),
        ("depth", DEPTH * 3, r"depth must be in \[0,1\], found .* to 2.9.*another name"),
        ("depth", np.where(MASK, DEPTH, np.nan), r"depth must be in \[0,1\], found nan"),
        ("depth", np.zeros((SOURCES, SIZE, SIZE, 1), int), "depth must be floats.*found int64"),
    ],
)
def test_a_label_that_cannot_be_kept_is_refused_before_the_first_image(tmp_path, name, values, message):
    def step(*_):
        raise AssertionError("an image was generated")

    with pytest.raises(ValueError, match=message):
        run(tmp_path, load=lambda sources: load(sources) | {name: values[sources]}, step=step)
