"""Tests that CLIP's features equal transformers'."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import gap_jax
from tests.torch_references.folders import nchw, relative_error

TEXTS = ["a room", "photo", "", "a room, a room; and " * 9]


@pytest.fixture
def folder(clip, tmp_path):
    """A copy of the CLIP folder, to be changed."""
    return Path(shutil.copytree(clip.folder, tmp_path / "model"))


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def features(output):
    return output if isinstance(output, torch.Tensor) else output.pooler_output


def torch_pixels(
    images, size=56, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
):
    resized = torch.nn.functional.interpolate(nchw(images), (size, size), mode="bilinear", antialias=True)
    return (resized - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@pytest.mark.parametrize("size", [(90, 131), (40, 25)], ids=["shrunk", "enlarged"])
def test_image_features_equal_transformers_at_any_size(clip, size):
    images = np.random.default_rng(0).random((2, *size, 3), np.float32)
    expected = clip.torch.vision_model(torch_pixels(images)).pooler_output
    assert relative_error(clip.clip.image_features(clip.params, images), expected) < 1e-4


def test_projected_image_features_equal_transformers(clip):
    images = np.random.default_rng(0).random((2, 56, 56, 3), np.float32)
    expected = features(clip.torch.get_image_features(torch_pixels(images)))
    assert relative_error(clip.clip.image_features(clip.params, images, projected=True), expected) < 1e-4


def test_text_features_and_similarities_equal_transformers(clip):
    with pytest.warns(UserWarning, match="was cut"):
        ids = clip.clip.tokenize(TEXTS)
    theirs = torch.from_numpy(ids).long()
    pooled = clip.clip.text_features(clip.params, ids)
    assert relative_error(pooled, clip.torch.text_model(theirs).pooler_output) < 1e-4
    projected = clip.clip.text_features(clip.params, ids, projected=True)
    assert relative_error(projected, features(clip.torch.get_text_features(theirs))) < 1e-4
    images = np.random.default_rng(1).random((3, 56, 56, 3), np.float32)
    expected = clip.torch(input_ids=theirs, pixel_values=torch_pixels(images)).logits_per_image
    pixels = np.moveaxis(torch_pixels(images).numpy(), 1, -1)
    logits = jax.jit(clip.clip.model.apply)({"params": clip.params}, ids, pixels)
    assert relative_error(logits, expected) < 1e-4


def test_older_configurations_pool_at_the_end_of_text_too(folder, tmp_path):
    """Before transformers 4.31, `eos_token_id` was 2; transformers still pools at the largest id then."""
    edit_json(folder / "config.json", lambda config: config["text_config"].update(eos_token_id=2))
    reference = transformers.CLIPModel.from_pretrained(folder).requires_grad_(False)
    assert reference.text_model.eos_token_id == 2
    clip, params = gap_jax.load_clip(folder)
    ids = clip.tokenize(["a room", "#, #"])
    assert (ids == 2).any()
    expected = reference.text_model(torch.from_numpy(ids).long()).pooler_output
    assert relative_error(clip.text_features(params, ids), expected) < 1e-4
    gap_jax.save_clip(clip, params, tmp_path / "saved")
    saved = transformers.CLIPModel.from_pretrained(tmp_path / "saved").requires_grad_(False)
    assert relative_error(saved.text_model(torch.from_numpy(ids).long()).pooler_output, expected) < 1e-4


def test_an_added_token_is_where_older_configurations_pool(folder):
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    name = "text_model.embeddings.token_embedding.weight"
    weights[name] = torch.cat([weights[name], torch.full((1, 32), 0.1)])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    changes = {"eos_token_id": 2, "vocab_size": len(tokenizer)}
    edit_json(folder / "config.json", lambda config: config["text_config"].update(changes))
    reference = transformers.CLIPModel.from_pretrained(folder).requires_grad_(False)
    clip, params = gap_jax.load_clip(folder)
    texts = ["a <new> room", "a room"]
    ids = clip.tokenize(texts)
    theirs = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids
    np.testing.assert_array_equal(ids, theirs)
    expected = reference.text_model(theirs).pooler_output
    assert relative_error(clip.text_features(params, ids), expected) < 1e-4


@pytest.mark.parametrize("processor", ["preprocessor_config.json", "processor_config.json"])
def test_images_are_normalised_as_the_folder_says(clip, folder, tmp_path, processor):
    mean, std = [0.5, 0.4, 0.3], [0.3, 0.2, 0.1]
    image_processor = transformers.CLIPImageProcessorPil(image_mean=mean, image_std=std)
    if processor == "processor_config.json":
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
        transformers.CLIPProcessor(image_processor, tokenizer).save_pretrained(folder)
    else:
        image_processor.save_pretrained(folder)
    assert (folder / processor).exists()
    ours, params = gap_jax.load_clip(folder)
    images = np.random.default_rng(0).random((2, 56, 56, 3), np.float32)
    expected = clip.torch.vision_model(torch_pixels(images, mean=mean, std=std)).pooler_output
    assert relative_error(ours.image_features(params, images), expected) < 1e-4
    gap_jax.save_clip(ours, params, tmp_path / "saved")
    saved = transformers.CLIPImageProcessorPil.from_pretrained(tmp_path / "saved")
    assert (list(saved.image_mean), list(saved.image_std), saved.crop_size["height"]) == (mean, std, 56)


def test_features_of_bfloat16_are_float32_and_near(clip):
    half, params = gap_jax.load_clip(clip.folder, dtype="bfloat16")
    images = np.random.default_rng(0).random((2, 56, 56, 3), np.float32)
    ours = half.image_features(params, images, projected=True)
    assert ours.dtype == np.float32
    assert relative_error(ours, clip.clip.image_features(clip.params, images, projected=True)) < 3e-2
