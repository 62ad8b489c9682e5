"""Tests the depth U-Net against a torch module with the published names and the published last layer."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

import gap_jax
from gap_jax.models.depth_unet import DepthUNet
from gap_jax.weights.convert import state_dict
from tests.torch_references.folders import nchw, nhwc


class Block(nn.Module):
    def __init__(self, features_in, features, pool):
        super().__init__()
        for i, width in ((1, features_in), (2, features), (3, features)):
            setattr(self, f"conv{i}", nn.Conv2d(width, features, 3, padding=1))
            setattr(self, f"bn{i}", nn.GroupNorm(8, features))
        self.pool = pool

    def forward(self, x):
        for i in (1, 2, 3):
            x = torch.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)))
        return nn.functional.max_pool2d(x, 2) if self.pool else x


class TorchUNet(nn.Module):
    def __init__(self, levels, width):
        super().__init__()
        widths = [width * 2**i for i in range(levels + 1)]
        pairs = list(itertools.pairwise(widths))
        self.down1 = Block(3, width, False)
        self.down_blocks = nn.ModuleList(Block(a, b, True) for a, b in pairs)
        for i in (1, 2, 3):
            setattr(self, f"mid_conv{i}", nn.Conv2d(widths[-1], widths[-1], 3, padding=1))
            setattr(self, f"bn{i}", nn.GroupNorm(8, widths[-1]))
        self.up_blocks = nn.ModuleList(Block(a + b, a, False) for a, b in pairs)
        self.last_conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.last_bn = nn.GroupNorm(8, width)
        self.last_conv2 = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        x = self.down1(x)
        skips = []
        for block in self.down_blocks:
            skips.append(x)
            x = block(x)
        for i in (1, 2, 3):
            x = torch.relu(getattr(self, f"bn{i}")(getattr(self, f"mid_conv{i}")(x)))
        for block, skip in reversed(list(zip(self.up_blocks, skips, strict=True))):
            x = nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
            x = block(torch.cat([x, skip], 1))
        return self.last_conv2(torch.relu(self.last_bn(self.last_conv1(x))))


@pytest.fixture(scope="module")
def pair():
    model = DepthUNet(levels=3)
    template = jax.device_get(jax.jit(model.init)(jax.random.key(0), *model.example_inputs())["params"])
    leaves, tree = jax.tree.flatten(template)
    draw = np.random.default_rng(0)
    leaves = [jnp.asarray(leaf + draw.normal(0, 0.05, leaf.shape), jnp.float32) for leaf in leaves]
    params = jax.tree.unflatten(tree, leaves)
    torch_model = TorchUNet(3, 16)
    torch_model.load_state_dict({k: torch.tensor(np.array(v)) for k, v in state_dict(params).items()})
    return model, params, torch_model


@pytest.mark.parametrize("shape", [(4, 32, 32), (3, 32, 48)])
def test_prediction_and_gradient_equal_torch(pair, shape):
    model, params, torch_model = pair
    images = np.random.default_rng(1).random((*shape, 3), np.float32)
    weights = np.random.default_rng(2).normal(size=(*shape, 1)).astype(np.float32)

    def loss(images):
        prediction = model.apply({"params": params}, images)
        return (prediction * weights).sum(), prediction

    (_, depth), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(jnp.asarray(images))
    x = torch.tensor(images.transpose(0, 3, 1, 2), requires_grad=True)
    expected = torch_model(x)
    (expected * torch.tensor(weights.transpose(0, 3, 1, 2))).sum().backward()
    assert expected.min() < -0.05 and expected.max() > 0.05
    scale = float(expected.abs().max())
    np.testing.assert_allclose(depth, expected.detach().numpy().transpose(0, 2, 3, 1), atol=1e-4 * scale)
    reference = x.grad.numpy().transpose(0, 2, 3, 1)
    norms = [np.linalg.norm(x.reshape(len(images), -1), axis=1) for x in (gradient - reference, reference)]
    errors = norms[0] / norms[1]
    # where a ReLU or a maximum is undecided to rounding, part of an image's gradient may be another's
    assert errors.min() < 1e-3 and errors.max() < 2e-2


def test_the_non_negative_form_ends_with_a_relu(pair):
    model, params, torch_model = pair
    images = np.random.default_rng(1).random((4, 32, 32, 3), np.float32)
    depth = jax.jit(model.clone(non_negative=True).apply)({"params": params}, images)
    with torch.no_grad():
        expected = torch.relu(torch_model(nchw(images)))
    assert 0.1 < (depth == 0).mean() < 0.9
    np.testing.assert_allclose(depth, nhwc(expected), atol=1e-4 * float(expected.max()))


@pytest.mark.parametrize("non_negative", [False, True])
def test_it_goes_to_a_folder_and_back(pair, non_negative, tmp_path):
    model, params, _ = pair
    model = model.clone(non_negative=non_negative)
    gap_jax.save_depth(model, params, tmp_path / "depth")
    again, loaded = gap_jax.load_depth(tmp_path / "depth")
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_sizes_that_do_not_halve_are_refused(pair):
    model, params, _ = pair
    with pytest.raises(ValueError, match=r"images of 60x64 pixels: both sides must be divisible by 8"):
        model.apply({"params": params}, jnp.zeros((1, 60, 64, 3)))
