"""Tests that DPT equals transformers' torch class with the same small random weights."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict

import gap_jax
from gap_jax.models.bit import BitConfig
from gap_jax.models.dpt import DPT
from gap_jax.models.layers import resize
from gap_jax.weights.convert import to_torch, torch_key
from tests.torch_references.depth import FORMS, predict, transformers_dpt
from tests.torch_references.folders import nchw, nhwc, relative_error

SHAPES = {"hybrid": [(1, 64, 64), (3, 32, 96)], "large": [(1, 96, 64), (3, 64, 64)]}
SHAPES |= {form: [(1, 32, 64)] for form in ("add", "ignore")}


@pytest.fixture(scope="module", params=FORMS)
def pair(request, tmp_path_factory):
    """Torch's network, ours with its parameters, read from the folder of torch's, and shapes of images."""
    theirs, folder = transformers_dpt(request.param), tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    return theirs, *gap_jax.load_depth(folder), SHAPES[request.param]


def test_prediction_and_gradient_equal_torch(pair):
    theirs, model, params, shapes = pair

    @jax.jit
    def gradient(images, weights):
        def loss(images):
            depth = model.apply({"params": params}, images)
            return (depth * weights).sum(), depth

        return jax.grad(loss, has_aux=True)(images)

    errors = []
    for shape in shapes:
        draw = np.random.default_rng(0)
        images, weights = draw.random((*shape, 3), np.float32), draw.normal(size=(*shape, 1)) / shape[1]
        image_gradient, depth = gradient(images, weights)
        x = nchw(images).requires_grad_()
        expected = predict(theirs, 2 * x - 1)
        (expected * nchw(weights)).sum().backward()
        expected = nhwc(expected)
        assert 0.1 < (expected > 0).mean() < 1 and expected.std() > 0.05 * expected.max()
        np.testing.assert_allclose(depth, expected, atol=1e-4 * expected.max())
        errors += map(relative_error, image_gradient, nhwc(x.grad))
    # where a ReLU or a maximum is undecided to rounding, part of an image's gradient may be another's
    assert min(errors) < 1e-3 and max(errors) < 2e-2


@pytest.mark.parametrize(
    "config",
    [
        dict(
            is_hybrid=True,
            neck_hidden_sizes=[256, 512, 768, 768],
            reassemble_factors=[1, 1, 1, 0.5],
            backbone_config=dict(
                model_type="bit",
                depths=[3, 4, 9],
                layer_type="bottleneck",
                global_padding="SAME",
                embedding_dynamic_padding=True,
                out_features=["stage1", "stage2", "stage3"],
            ),
        ),
        dict(
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            backbone_out_indices=[5, 11, 17, 23],
            neck_hidden_sizes=[256, 512, 1024, 1024],
        ),
    ],
    ids=["Intel/dpt-hybrid-midas", "Intel/dpt-large"],
)
def test_published_sizes_have_torchs_state_dict(config):
    with torch.device("meta"):
        theirs = transformers.DPTForDepthEstimation(transformers.DPTConfig(**config))
    expected = {name: tuple(value.shape) for name, value in theirs.state_dict().items()}
    ours = {
        key: config[key]
        for key in config
        if key not in ("is_hybrid", "reassemble_factors", "backbone_config")
    }
    model = DPT(**ours, backbone_config=BitConfig() if "is_hybrid" in config else None)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *model.example_inputs())["params"]
    shapes_in_torch = {
        torch_key(path): to_torch(path, np.broadcast_to(0, leaf.shape)).shape
        for path, leaf in flatten_dict(shapes).items()
    }
    assert shapes_in_torch == expected


@pytest.mark.parametrize("size", [(6, 10), (2, 3)])
@pytest.mark.parametrize("align_corners", [False, True])
def test_resizing_equals_torch(size, align_corners):
    ours = jax.jit(lambda x: resize(x, size, align_corners=align_corners))
    for shape in ((2, 3, 5, 2), (1, 1, 2, 2)):
        x = np.random.default_rng(0).random(shape, np.float32)
        given = dict(size=size, mode="bilinear", align_corners=align_corners)
        expected = nhwc(torch.nn.functional.interpolate(nchw(x), **given))
        np.testing.assert_allclose(ours(x), expected, atol=1e-6)


def test_depth_is_float32_whatever_the_computation():
    model = DPT(num_hidden_layers=4, backbone_out_indices=(0, 1, 2, 3), dtype=jnp.bfloat16)
    images = jnp.zeros((2, 32, 64, 3))
    depth, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert depth.shape == (2, 32, 64, 1) and depth.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


@pytest.mark.parametrize(
    "shape, message",
    [
        ((1, 48, 64, 3), "images of 48x64 pixels: both sides must be divisible by 32"),
        ((1, 64, 64, 1), "images must have shape [*, *, *, 3], found [1, 64, 64, 1]"),
        ((64, 64, 3), "images must have shape [*, *, *, 3], found [64, 64, 3]"),
    ],
)
def test_images_that_do_not_fit_are_refused(shape, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(DPT().init, jax.random.key(0), jnp.zeros(shape))
