"""The shipped segmentation models of the rooms: small, readable by torch, and good where they should be."""

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import jaccard_score

import gap_jax
from gap_jax.data.corruptions.common import corrupt
from gap_jax.small_worlds import rooms
from gap_jax.weights.repo import shipped
from tests.models.test_depth_unet import TorchUNet
from tests.torch_references.folders import nchw, nhwc

COUNT = 32  # as in other tests of these networks, whose programs are then compiled already
PARTS = ("segmentation", "segmentation_critic")


@pytest.fixture(scope="module")
def truth():
    return rooms.render(rooms.SPLITS["test"], range(COUNT), [rooms.Style()] * COUNT)


@pytest.fixture(scope="module")
def models():
    """`models(part)`: a jitted function from images to logits."""
    loaded = {part: gap_jax.load_segmentation("small", part) for part in PARTS}
    predict = jax.jit(lambda params, images: loaded[PARTS[0]][0].apply({"params": params}, images))
    return {
        part: lambda images, params=params: predict(params, images) for part, (_, params) in loaded.items()
    }


@pytest.mark.parametrize("part", PARTS)
def test_torch_sees_the_same_logits(models, truth, part):
    file = shipped("small", part) / "model.safetensors"
    assert file.stat().st_size < 1e6
    theirs = TorchUNet(3, 8)
    theirs.last_conv2 = torch.nn.Conv2d(8, len(rooms.CLASSES), 1)
    theirs.load_state_dict(load_file(file))
    images = truth.image / np.float32(255)
    with torch.no_grad():
        expected = nhwc(theirs(nchw(images)))
    np.testing.assert_allclose(models[part](images), expected, rtol=1e-3, atol=2e-3)


def test_the_model_fails_in_fog_and_blur_and_the_critic_does_not(models, truth):
    images = truth.image / np.float32(255)
    shifted = {name: corrupt(images, name, 3, ids=np.arange(COUNT)) for name in ("fog", "defocus_blur")}
    foggy = rooms.render(rooms.SPLITS["test"], range(COUNT), [rooms.Style(air="foggy")] * COUNT)
    shown = {"clean": images, "foggy": foggy.image / np.float32(255), **shifted}

    def miou(part, name):
        predicted = np.asarray(models[part](shown[name]).argmax(-1))
        return jaccard_score(truth.classes.ravel(), predicted.ravel(), average="macro")

    found = {(part, name): miou(part, name) for part in PARTS for name in shown}
    assert found["segmentation", "clean"] > 0.7, found
    for name in ("fog", "defocus_blur"):
        assert found["segmentation", name] < found["segmentation", "clean"] - 0.1, found
    assert found["segmentation_critic", "foggy"] > found["segmentation", "foggy"], found
