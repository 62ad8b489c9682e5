"""The shipped segmentation model of the rooms: small, readable by torch, and narrow."""

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

COUNT = 32


@pytest.fixture(scope="module")
def truth():
    return rooms.render(rooms.SPLITS["test"], range(COUNT), [rooms.Style()] * COUNT)


@pytest.fixture(scope="module")
def predict():
    """The model as a jitted function from images to logits."""
    module, params = gap_jax.load_segmentation("small")
    apply = jax.jit(module.apply)
    return lambda images: apply({"params": params}, images)


def test_torch_sees_the_same_logits(predict, truth):
    file = shipped("small", "segmentation") / "model.safetensors"
    assert file.stat().st_size < 1e6
    theirs = TorchUNet(3, 8)
    theirs.last_conv2 = torch.nn.Conv2d(8, len(rooms.CLASSES), 1)
    theirs.load_state_dict(load_file(file))
    images = truth.image / np.float32(255)
    with torch.no_grad():
        expected = nhwc(theirs(nchw(images)))
    np.testing.assert_allclose(predict(images), expected, rtol=1e-3, atol=2e-3)


def test_it_tells_classes_in_sharp_pictures_and_fails_in_fog_and_blur(predict, truth):
    images = truth.image / np.float32(255)
    shown = {name: corrupt(images, name, 3, ids=np.arange(COUNT)) for name in ("fog", "defocus_blur")}
    shown["clean"] = images
    predicted = {name: np.asarray(predict(image).argmax(-1)).ravel() for name, image in shown.items()}
    miou = {name: jaccard_score(truth.classes.ravel(), x, average="macro") for name, x in predicted.items()}
    assert miou["clean"] > 0.5, miou
    assert max(miou["fog"], miou["defocus_blur"]) < miou["clean"] - 0.05, miou
