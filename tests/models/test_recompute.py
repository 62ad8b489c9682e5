"""Tests that recomputation by block changes no gradient, keeps less in memory, and is chosen by size."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gap_jax.models.bit import BitConfig
from gap_jax.models.controlnet import ControlNet
from gap_jax.models.dpt import DPT
from gap_jax.models.layers import row_by_row
from gap_jax.models.unet import UNet2DCondition
from gap_jax.models.vae import AutoencoderKL
from tests.torch_references.folders import relative_error

CONTEXT = np.ones((1, 5, 8), np.float32)
BACKBONE = dict(
    block_out_channels=(8, 16),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    layers_per_block=1,
    cross_attention_dim=8,
    attention_head_dim=2,
    norm_num_groups=2,
)
NETWORKS = {
    "unet": UNet2DCondition(up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **BACKBONE),
    "controlnet": ControlNet(conditioning_embedding_out_channels=(4, 8), **BACKBONE),
    "decoder": AutoencoderKL(block_out_channels=(8, 16), norm_num_groups=2),
    "dpt": DPT(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        backbone_config=BitConfig(8, (64, 64, 64), (2, 1, 1), 2),
        backbone_out_indices=(2, 3, 0, 1),
        neck_hidden_sizes=(8, 8, 8, 8),
        fusion_hidden_size=32,
    ),
}


def inputs(name, side):
    """The shape of latents of this side, or of images that have such latents."""
    return jax.ShapeDtypeStruct(
        (1, 8 * side, 8 * side, 3) if name == "dpt" else (1, side, side, 4), jnp.float32
    )


def loss(name, recompute):
    """A function of parameters and latents or images: the sum of a network's outputs, squared."""
    network = NETWORKS[name].clone(recompute=recompute)

    def total(params, latents):
        if name == "decoder":
            outputs = network.apply(params, latents, method="decode")
        elif name == "dpt":
            outputs = network.apply(params, latents)
        else:
            height, width = latents.shape[1:3]
            condition = (jnp.ones((1, 2 * height, 2 * width, 3)),) if name == "controlnet" else ()
            outputs = network.apply(params, latents, 7, CONTEXT, *condition)
        return sum(jnp.square(output).sum() for output in jax.tree.leaves(outputs))

    return total


@functools.cache
def kept(name, recompute, side):
    """The bytes that the gradient to the latents keeps between its two passes."""
    network = NETWORKS[name]
    params = jax.eval_shape(network.init, jax.random.key(0), *network.example_inputs())
    return bytes_kept(loss(name, recompute), params, inputs(name, side))


def bytes_kept(function, params, x):
    """The bytes that the gradient of `function(params, x)` to `x` keeps between its two passes."""

    def pull_back(params, x):
        return jax.vjp(partial(function, params), x)[1]

    leaves = jax.tree.leaves(jax.eval_shape(pull_back, params, x))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def test_recomputed_gradients_are_equal():
    network, shape = NETWORKS["dpt"], inputs("dpt", 4).shape
    params = jax.jit(network.init)(jax.random.key(0), *network.example_inputs())
    params["params"]["head.head.4"]["bias"] += 10  # before a ReLU
    x = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    expected, found = (jax.jit(jax.grad(loss("dpt", value), 1))(params, x) for value in ("nothing", "blocks"))
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_only_inputs_of_blocks_are_kept(name):
    assert kept(name, "blocks", 32) < 0.6 * kept(name, "nothing", 32)


def test_large_latents_are_recomputed_automatically():
    """Images of 256 pixels a side have latents of 32."""
    assert kept("decoder", "auto", 32) == kept("decoder", "blocks", 32)
    assert kept("decoder", "auto", 30) == kept("decoder", "nothing", 30)


def test_the_gradient_of_decoding_is_taken_image_by_image():
    """Its memory does not grow with the images; and it is the gradient of all, with nothing recomputed."""
    plain, network = (NETWORKS["decoder"].clone(recompute=value) for value in ("nothing", "blocks"))
    params = jax.jit(network.init)(jax.random.key(0), *network.example_inputs())["params"]
    latents = np.random.default_rng(0).standard_normal((2, 3, 4, 4, 4), dtype=np.float32)

    def decode(network, params, latents):
        return network.apply({"params": params}, latents, method="decode")

    def total(decode, params, latents):
        return jnp.square(jax.vmap(partial(decode, params))(latents)).sum()

    again = partial(row_by_row, partial(decode, network))
    forms = partial(decode, plain), again
    gradients = [jax.jit(jax.grad(partial(total, form), (0, 1)))(params, latents) for form in forms]
    expected, found = (np.concatenate([*map(np.ravel, jax.tree.leaves(x))]) for x in gradients)
    assert relative_error(found, expected) < 1e-5
    kept = bytes_kept(again, params, latents[0])
    assert kept == latents[0].nbytes + sum(leaf.nbytes for leaf in jax.tree.leaves(params))


def test_an_unknown_value_is_refused():
    with pytest.raises(ValueError, match="recompute must be one of auto, nothing, blocks; found 'all'"):
        kept("decoder", "all", 4)
