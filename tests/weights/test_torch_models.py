"""Tests that torch models are loaded for their task by folder or factory, as transformers reads them."""

import json
import sys

import jax
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

import gap_jax
from gap_jax.models.torch_modules.module import TorchModule, as_network
from gap_jax.weights.torch_models.loading import is_factory
from tests.torch_references.folders import nchw
from tests.torch_references.modules import build

IMAGES = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
FACTORIES = """
import torch

class Net(torch.nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.shape, self.scale = shape, torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return x.mean() * self.scale * torch.ones(len(x), *self.shape)

def classifier(): return Net(5)
def flat_depth(): return Net(8, 8)
def depth(): return Net(1, 8, 8)
def segmenter(): return Net(5, 8, 8)
def text(): return "a net"
def transposed(): return Net(8, 8, 5)
def breaks(): return Net(5) + 1
def of_32_pixels(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 5))
"""


@pytest.fixture
def factories(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_networks", raising=False)


def processor():
    return transformers.ViTImageProcessor(image_mean=MEAN, image_std=STD, size={"height": 32, "width": 32})


def test_folders_of_any_class_are_loaded_and_saved(tmp_path):
    module, _ = build("segformer")
    module.save_pretrained(tmp_path / "model"), processor().save_pretrained(tmp_path / "model")
    loaded, params = gap_jax.load_torch(tmp_path / "model", "segmentation")
    assert loaded.image_size == 32
    ours = jax.jit(loaded.apply)({"params": params}, IMAGES)
    with torch.no_grad():
        theirs = module(nchw((IMAGES - np.float32(MEAN)) / np.float32(STD))).logits.permute(0, 2, 3, 1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"of a class for depth .ForDepthEst.* found model_type 'segf"):
        gap_jax.load_torch(tmp_path / "model", "depth")
    with pytest.raises(
        ValueError, match="other classes for image classification need the extra torch-models"
    ):
        gap_jax.load_classifier(tmp_path / "model")
    with pytest.raises(ValueError, match="own torch module as module:factory"):
        gap_jax.load_depth(tmp_path / "model")

    changed = jax.tree.map(lambda leaf: leaf * 1.5, params)
    gap_jax.save_classifier(loaded, changed, tmp_path / "saved")
    again = transformers.SegformerForSemanticSegmentation.from_pretrained(tmp_path / "saved")
    before = module.state_dict()
    for name, value in again.state_dict().items():
        factor = 1 if value.dtype == torch.int64 else 1.5
        np.testing.assert_allclose(value, before[name] * factor, rtol=1e-6, err_msg=name)
    kept = gap_jax.load_torch(tmp_path / "saved", "segmentation")[0].preprocessing
    np.testing.assert_allclose(kept.image_mean + kept.image_std, MEAN + STD)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dinov2", "swin", "depth_anything"])
def test_task_loaders_take_what_has_no_flax_network(kind, tmp_path):
    module, side = build(kind)
    module.save_pretrained(tmp_path), processor().save_pretrained(tmp_path)
    load = gap_jax.load_depth if kind == "depth_anything" else gap_jax.load_classifier
    loaded, params = load(tmp_path)
    assert isinstance(loaded, TorchModule)
    images = np.random.default_rng(0).random((2, side, side, 3), np.float32)
    with torch.no_grad():
        output = module(nchw((images - np.float32(MEAN)) / np.float32(STD)))
    theirs = output.predicted_depth[..., None] if kind == "depth_anything" else output.logits
    ours = jax.jit(loaded.apply)({"params": params}, images)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_factories_are_loaded_for_their_task(factories, tmp_path):
    for name, load, shape in (
        ("classifier", gap_jax.load_classifier, (2, 5)),
        ("depth", gap_jax.load_depth, (2, 8, 8, 1)),
        ("flat_depth", gap_jax.load_depth, (2, 8, 8, 1)),
        ("segmenter", lambda model: gap_jax.load_torch(model, "segmentation"), (2, 8, 8, 5)),
    ):
        module, params = load(f"my_networks:{name}")
        prediction = module.apply({"params": params}, IMAGES)
        np.testing.assert_allclose(prediction, np.full(shape, IMAGES.mean()), rtol=1e-5)
    module, params = gap_jax.load_classifier(
        "my_networks:classifier", "bfloat16", image_mean=(1.0,) * 3, image_std=(0.5,) * 3
    )
    assert params["parameters"]["scale"].dtype == "bfloat16"
    logits = module.apply({"params": params}, IMAGES)
    np.testing.assert_allclose(logits, np.full((2, 5), (IMAGES.mean() - 1) / 0.5), rtol=2e-2)
    params["parameters"]["scale"] = 2 * params["parameters"]["scale"]
    gap_jax.save_classifier(module, params, tmp_path / "saved")
    state = load_file(tmp_path / "saved" / "model.safetensors")
    module.module.load_state_dict(state)
    assert module.module.scale.item() == float(params["parameters"]["scale"]) != 1


@pytest.mark.parametrize(
    "factory, load, message",
    [
        ("segmenter", gap_jax.load_classifier, r"must predict \[B,K\] for class.*shape \[2, 8, 8, 5\]"),
        ("segmenter", gap_jax.load_depth, r"must predict \[B,1,H,W\] or \[B,H,W\] for depth; found"),
        ("classifier", gap_jax.load_depth, r"shape \[2, 5\] for 2 images of 224x224 pixels"),
        ("text", gap_jax.load_depth, "must return a torch.nn.Module, found str"),
        ("transposed", gap_jax.load_segmentation, r"must predict \[B,K,H,W\].* shape \[2, 8, 5, 8\]"),
        ("breaks", gap_jax.load_depth, r"but it raises TypeError: unsupp.* \(my_networks.py, line 18\)"),
        ("of_32_pixels", gap_jax.load_classifier, "images of 224x224 pixels: RuntimeError: .* give the size"),
        ("absent", gap_jax.load_depth, "my_networks has no function absent: check the name"),
    ],
)
def test_factories_that_do_not_fit_are_refused(factories, factory, load, message):
    with pytest.raises(ValueError, match=message) as error:
        load(f"my_networks:{factory}")
    assert len(str(error.value)) < 500


def test_a_factorys_module_may_take_images_of_one_size_only(factories):
    module, params = gap_jax.load_classifier("my_networks:of_32_pixels", size=32)
    assert module.image_size == 32
    network = as_network(module, params)
    expected = module.module(nchw(IMAGES)).detach()
    np.testing.assert_allclose(network.predict(params, IMAGES), expected, rtol=1e-4, atol=1e-6)
    assert network.predict(params, np.ones((1, 48, 48, 3), np.float32)).shape == (1, 5)


def test_a_factory_in_no_module_is_refused():
    with pytest.raises(ValueError, match="no_such_module:net: there is no Python module no_such_module"):
        gap_jax.load_depth("no_such_module:net")


def test_factories_are_told_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a:b").mkdir()
    assert is_factory("my.networks:depth")
    assert not any(map(is_factory, ("a:b", "organisation/name", "file.pth", "C:/models", "small", "x:")))


@pytest.mark.parametrize(
    "processor",
    [
        transformers.ViTImageProcessor(size={"height": 24, "width": 40}),
        transformers.SegformerImageProcessor(do_resize=False),
        transformers.BitImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        transformers.MobileViTImageProcessor(do_resize=False, do_center_crop=False),
        transformers.ViTImageProcessor(do_normalize=False, rescale_factor=1 / 127.5, do_resize=False),
        transformers.ViTImageProcessor(do_rescale=False, do_resize=False),
    ],
    ids=lambda processor: type(processor).__name__,
)
def test_images_are_what_the_processor_makes(processor):
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    config = json.loads(processor.to_json_string())
    ours = gap_jax.Preprocessing.from_processor(config)
    theirs = processor(Image.fromarray(pixels), return_tensors="np")["pixel_values"]
    images = np.float32(pixels[None]) / 255
    found = ours.normalise(ours.resize(images))
    if ours.resize(images) is images:
        np.testing.assert_allclose(found, theirs, rtol=1e-5, atol=1e-5)
    else:  # Pillow rounds to 1/255 after each axis
        np.testing.assert_allclose(found, theirs, atol=1.1 / 255 / min(ours.image_std))


@pytest.mark.parametrize(
    "config, message",
    [
        ({"resample": 1}, "resample must be 2 .*, found 1"),
        ({"size": {"longest_edge": 3}}, "size must have height and width"),
    ],
)
def test_processors_that_are_not_supported_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        gap_jax.Preprocessing.from_processor(config)
