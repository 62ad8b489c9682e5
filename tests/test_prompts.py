"""Files of prompts, in the forms of diffusers and others; start values; nearest words."""

import builtins
import json
import os

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
import torch
from safetensors.numpy import save_file

from gap_jax import prompts
from tests.torch_references.folders import relative_error


def vectors(n=3, width=48, seed=0):
    return np.random.default_rng(seed).standard_normal((n, width), dtype=np.float32)


def table(model):
    return model.torch.text_encoder.get_input_embeddings().weight.detach().numpy()


@pytest.mark.parametrize("n", [1, 3])
def test_a_saved_prompt_gives_torch_diffusers_the_same_text_states(sd15, tmp_path, n):
    embeddings = vectors(n)
    prompts.save(tmp_path / "learned_embeds.safetensors", embeddings, metadata={"step": 500})
    pipe = diffusers.StableDiffusionControlNetPipeline.from_pretrained(sd15.folder, safety_checker=None)
    pipe.load_textual_inversion(str(tmp_path))
    theirs, _ = pipe.encode_prompt("a photo of <gap>, room", "cpu", 1, do_classifier_free_guidance=False)
    words = " ".join(f"<{i}>" for i in range(n))
    ids = sd15.pipe.tokenize([f"a photo of {words}, room"], placeholders=n)
    assert relative_error(sd15.pipe.encode_text(sd15.params, ids, embeddings), theirs.detach()) < 1e-4


def test_a_file_holds_one_key_and_the_metadata_of_the_run_in_its_header(tmp_path):
    path, embeddings = tmp_path / "new" / "learned_embeds.safetensors", vectors()
    metadata = {"step": 7, "config": {"lr": 5e-4, "start": "room"}, "note": "größer"}
    prompts.save(path, jnp.asarray(embeddings), token="<fog>", metadata=metadata)
    with safetensors.safe_open(path, "numpy") as file:
        assert list(file.keys()) == ["<fog>"]
        np.testing.assert_array_equal(file.get_tensor("<fog>"), embeddings)
        assert json.loads(file.metadata()["gap_jax"]) == metadata
    np.testing.assert_array_equal(prompts.load(path), embeddings)
    assert prompts.load_metadata(path) == metadata
    assert os.listdir(path.parent) == [path.name]


def test_an_existing_file_survives_a_failed_save(tmp_path, monkeypatch):
    path, embeddings = tmp_path / "learned_embeds.safetensors", vectors()
    prompts.save(path, embeddings)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        prompts.save(path, embeddings + 1)
    np.testing.assert_array_equal(prompts.load(path), embeddings)
    assert os.listdir(tmp_path) == [path.name]


def test_automatic1111s_files_are_read(tmp_path):
    embeddings = vectors()
    save_file({"emb_params": embeddings.astype(np.float16)}, tmp_path / "a.safetensors")
    np.testing.assert_array_equal(prompts.load(tmp_path / "a.safetensors"), embeddings.astype(np.float16))
    assert prompts.load_metadata(tmp_path / "a.safetensors") == {}
    content = {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": torch.from_numpy(embeddings)},
        "name": "x",
    }
    for zipped in (True, False):  # torch's format since 1.6, and the one before
        torch.save(content | {"step": 10}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        np.testing.assert_array_equal(prompts.load(tmp_path / "a.pt"), embeddings)
    assert prompts.load_metadata(tmp_path / "a.pt") == {}


@pytest.mark.parametrize("n", [1, 12])
def test_the_papers_files_are_stacked_by_index(tmp_path, n):
    embeddings = vectors(n)
    content = {
        f"<placeholder_token_{i}>": torch.nn.Parameter(torch.from_numpy(x)) for i, x in enumerate(embeddings)
    }
    torch.save(dict(sorted(content.items())), tmp_path / "learned_embeds-500.bin")
    loaded = prompts.load(tmp_path / "learned_embeds-500.bin")
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, embeddings)


def test_bfloat16_files_are_read(tmp_path):
    half = torch.from_numpy(vectors()).bfloat16()
    torch.save({"<gap>": half}, tmp_path / "a.bin")
    safetensors.torch.save_file({"<gap>": half}, tmp_path / "a.safetensors")
    for name in ("a.bin", "a.safetensors"):
        np.testing.assert_array_equal(prompts.load(tmp_path / name), half.float().numpy())


class Attack:
    def __reduce__(self):
        return os.mkdir, ("attacked",)


def test_a_pickle_that_runs_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"<gap>": Attack()}, "a.bin")
    with pytest.raises(ValueError, match=r"a\.bin as weights"):
        prompts.load("a.bin")
    assert not os.path.exists("attacked")


def test_a_pickle_without_torch_says_what_to_do(tmp_path, monkeypatch):
    torch.save({"<gap>": torch.zeros(2, 4)}, tmp_path / "a.bin")
    genuine = builtins.__import__

    def without_torch(name, *arguments):
        if name == "torch":
            raise ImportError(name)
        return genuine(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    with pytest.raises(ImportError, match=r"a\.bin is a torch pickle.*pip install -e '\.\[torch\]'"):
        prompts.load(tmp_path / "a.bin")


@pytest.mark.parametrize(
    "content, message",
    [
        ({}, "must hold embeddings by token, found dict"),
        ([1, 2], r"must hold embeddings by token, found list \[1, 2\]"),
        (
            {"clip_l": torch.zeros(2, 4), "clip_g": torch.zeros(2, 8)},
            "is a textual inversion of Stable Diffusion XL .* give one of Stable Diffusion 1.x or 2.x",
        ),
        (
            {f"unet.down_blocks.{i}.attn1.to_q.lora_A.weight": torch.zeros(2, 4) for i in range(999)},
            "found a LoRA: give it to load_pipeline as `lora`",
        ),
        (
            {"<a_0>": torch.zeros(4), "<a_2>": torch.zeros(4)},
            "must hold .* tokens numbered from 0, found <a_0>, <a_2>",
        ),
        ({"<a_0>": torch.zeros(4), "<b_1>": torch.zeros(4)}, "found <a_0>, <b_1>"),
        (
            {"<a_0>": torch.zeros(4), "<a_1>": torch.zeros(5)},
            r"must all have one shape \[D\], found \(4,\), \(5,\)",
        ),
        ({"<a>": torch.zeros(1, 2, 4)}, r"must have shape \[\*, \*\], found \[1, 2, 4\]"),
        ({"<a>": torch.zeros(0, 4)}, r"must not be empty, found \[0, 4\]"),
        (
            {"<a>": torch.tensor([[0.0, 0.0], [0.0, torch.nan]])},
            r"must be finite, found NaN .* first at index \[1, 1\]",
        ),
        ({"<a>": "b"}, "must be a tensor, found str"),
        (
            torch.nn.Linear(4, 2, bias=False).state_dict(),
            "found weight, a model's parameters: give a textual",
        ),
        (
            torch.nn.Sequential(torch.nn.Linear(4, 2, bias=False)).state_dict(),
            "found 0.weight, a model's parameters",
        ),
        (
            torch.nn.Sequential(*[torch.nn.RMSNorm(4) for _ in range(3)]).state_dict(),
            "found 0.weight, 1.weight, 2.weight, a model's parameters",
        ),
        ({"projection": torch.zeros(76, 4)}, "at most 75 vectors, the length of a text, found 76"),
    ],
)
def test_files_of_an_unknown_form_are_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.bin")
    with pytest.raises(ValueError, match=rf"a\.bin.*{message}") as error:
        prompts.load(tmp_path / "a.bin")
    assert len(str(error.value)) < 500


def test_missing_truncated_and_other_files_are_refused(tmp_path):
    for load in (prompts.load, prompts.load_metadata):
        with pytest.raises(FileNotFoundError, match=r"there is no prompt file .*none\.safetensors"):
            load(tmp_path / "none.safetensors")
    path = tmp_path / "learned_embeds.safetensors"
    prompts.save(path, vectors())
    path.write_bytes(path.read_bytes()[:-10])
    for load in (prompts.load, prompts.load_metadata):
        with pytest.raises(ValueError, match=r"learned_embeds.safetensors .* not a readable safetensors"):
            load(path)
    (tmp_path / "a.txt").touch()
    with pytest.raises(
        ValueError, match=r"a\.txt must be a prompt file with one of the suffixes \.safetensors, \.bin"
    ):
        prompts.load(tmp_path / "a.txt")


def test_an_invalid_prompt_is_refused_and_nothing_is_written(tmp_path):
    path = tmp_path / "learned_embeds.safetensors"
    infinite = vectors()
    infinite[2, 5] = np.inf
    for embeddings, message in (
        (vectors()[0], r"embeddings must have shape \[\*, \*\], found \[48\]"),
        (infinite, r"must be finite, .* first at index \[2, 5\]"),
    ):
        with pytest.raises(ValueError, match=message):
            prompts.save(path, embeddings)
    with pytest.raises(ValueError, match="placeholder name ' ' is empty"):
        prompts.save(path, vectors(), token=" ")
    with pytest.raises(TypeError, match="not JSON serializable"):
        prompts.save(path, vectors(), metadata={"key": object()})
    with pytest.raises(ValueError, match=r"a\.bin must be a \.safetensors file"):
        prompts.save(tmp_path / "a.bin", vectors())
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        ["<a", "<ab>"],
        ["<gap>", "<gap>_1"],
        ["fog", "<fog>"],
        ["<gap>", "<gap>"],
        ["<Gap>", "<gap>"],
        ["b", "", "c"],
    ],
)
def test_placeholder_names_that_diffusers_would_confuse_are_refused(names):
    with pytest.raises(ValueError, match=r"contained in|is empty"):
        prompts.check_tokens(names)


def test_placeholder_names_that_diffusers_can_tell_apart_pass():
    prompts.check_tokens(["<gap-1>", "<gap-10>", "<fog>"])


def test_a_word_starts_all_placeholders_from_its_embedding(sd15):
    embeddings = prompts.from_word(sd15.pipe, sd15.params, "room", 4)
    room = sd15.torch.tokenizer.convert_tokens_to_ids("room</w>")
    assert embeddings.dtype == jnp.float32
    np.testing.assert_array_equal(embeddings, table(sd15)[[room] * 4])


@pytest.mark.parametrize("kind", ["sd15", "sd21"])
def test_a_word_of_several_tokens_is_refused_and_they_are_named(models, kind):
    model = models(kind)
    with pytest.raises(
        ValueError, match="'my room' must be a single token of the vocabulary, found 3: 'm', 'y', 'room'"
    ):
        prompts.from_word(model.pipe, model.params, "my room", 4)
    with pytest.raises(ValueError, match="found 0: none"):
        prompts.from_word(model.pipe, model.params, "", 4)


def test_draws_from_the_vocabulary_have_its_mean_and_covariance(sd15):
    draws = np.asarray(prompts.from_vocabulary(sd15.params, 40_000, jax.random.key(0)), np.float64)
    assert relative_error(draws.mean(0), table(sd15).mean(0)) < 0.15  # the mean is small beside the deviation
    assert relative_error(np.cov(draws.T), np.cov(table(sd15).T.astype(np.float64))) < 0.05


def test_draws_from_fewer_runs_than_dimensions_have_their_singular_covariance(sd15):
    runs = vectors(4, 48) + 5
    draws = np.asarray(prompts.from_distribution(runs, 20_000, jax.random.key(0)), np.float64)
    assert relative_error(draws.mean(0), runs.mean(0)) < 0.01
    assert relative_error(np.cov(draws.T), np.cov(runs.T.astype(np.float64))) < 0.03
    assert np.linalg.matrix_rank(draws - runs.mean(0), tol=1e-2) == 3
    moved = np.asarray(prompts.from_distribution(runs, 20_000, jax.random.key(0), vectors(1, 48)[0]))
    np.testing.assert_allclose(moved - vectors(1, 48)[0], draws - runs.mean(0), atol=1e-4)
    with pytest.raises(ValueError, match=r"\[m, D\] with m at least 2, found \[1, 48\]"):
        prompts.from_distribution(runs[:1], 2, jax.random.key(0))


def test_random_words_are_different_tokens_of_the_vocabulary(sd15):
    drawn = np.asarray(prompts.from_random_words(sd15.pipe, sd15.params, 20, jax.random.key(0)))
    known = [row.tobytes() for row in table(sd15)]
    found = [known.index(row.tobytes()) for row in drawn]
    assert len(set(found)) == 20 and max(found) > 100


def test_start_values_of_a_population_are_drawn_by_vmap(sd15):
    keys = jax.random.split(jax.random.key(0), 3)
    starts = jax.vmap(lambda key: prompts.from_vocabulary(sd15.params, 2, key))(keys)
    assert starts.shape == (3, 2, 48)
    np.testing.assert_allclose(
        starts[1], prompts.from_vocabulary(sd15.params, 2, keys[1]), rtol=1e-4, atol=1e-6
    )


def test_nearest_words_are_ranked_by_cosine_and_named_once(sd15):
    room = sd15.torch.tokenizer.convert_tokens_to_ids("room</w>")
    embeddings = np.stack([3 * table(sd15)[room], vectors(1)[0]])
    (first, *_), second = prompts.nearest_words(sd15.pipe, sd15.params, embeddings, k=5)
    assert first[0] == "room" and first[1] == pytest.approx(1, abs=1e-5)
    rows = torch.from_numpy(table(sd15))
    cosines = torch.nn.functional.cosine_similarity(rows, torch.from_numpy(embeddings[1:]))
    expected = {}
    for i in cosines.argsort(descending=True).tolist():
        text = sd15.torch.tokenizer.decode([i])
        if text and text.isprintable() and "\ufffd" not in text:
            expected.setdefault(text, cosines[i].item())
    assert second == [(word, pytest.approx(value, abs=1e-5)) for word, value in list(expected.items())[:5]]


def test_nearest_words_refuses_a_single_vector(sd15):
    with pytest.raises(ValueError, match=r"shape \[\*, \*\], found \[48\]"):
        prompts.nearest_words(sd15.pipe, sd15.params, vectors()[0])


def test_whole_words_are_the_tokens_that_their_own_text_has(sd15):
    ids = prompts.word_ids(sd15.pipe)
    tokenizer = sd15.torch.tokenizer
    assert 10 < len(ids) < len(tokenizer) and not set(ids) & set(tokenizer.all_special_ids)
    words = tokenizer.batch_decode(ids[:, None])
    assert tokenizer(words, add_special_tokens=False).input_ids == [[i] for i in ids]
    mixed = [",".join(words[i] for i in (0, 5, 3)), " ".join(words[-3:])]
    comma = tokenizer(",", add_special_tokens=False).input_ids
    ids = ids.tolist()
    expected = [[ids[0], *comma, ids[5], *comma, ids[3]], ids[-3:]]
    assert tokenizer(mixed, add_special_tokens=False).input_ids == expected
