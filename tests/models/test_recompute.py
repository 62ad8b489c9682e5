"""Tests that recomputation by block changes no gradient, keeps less in memory, and is chosen by size."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gap_jax.models.controlnet import ControlNet
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
}


def loss(name, recompute):
    """A function of parameters and latents: the sum of a network's outputs, squared."""
    network = NETWORKS[name].clone(recompute=recompute)

    def total(params, latents):
        if name == "decoder":
            outputs = network.apply(params, latents, method="decode")
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
    latents = jax.ShapeDtypeStruct((1, side, side, 4), jnp.float32)

    def pull_back(params, latents):
        return jax.vjp(partial(loss(name, recompute), params), latents)[1]

    leaves = jax.tree.leaves(jax.eval_shape(pull_back, params, latents))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def test_recomputed_gradients_are_equal():
    network = NETWORKS["decoder"]
    params = jax.jit(network.init)(jax.random.key(0), *network.example_inputs())
    latents = np.random.default_rng(0).standard_normal((1, 6, 4, 4), dtype=np.float32)
    expected, found = (
        jax.jit(jax.grad(loss("decoder", value), 1))(params, latents) for value in ("nothing", "blocks")
    )
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_only_inputs_of_blocks_are_kept(name):
    assert kept(name, "blocks", 32) < kept(name, "nothing", 32) / 2


def test_large_latents_are_recomputed_automatically():
    """Images of 256 pixels a side have latents of 32."""
    assert kept("decoder", "auto", 32) == kept("decoder", "blocks", 32)
    assert kept("decoder", "auto", 30) == kept("decoder", "nothing", 30)


def test_an_unknown_value_is_refused():
    with pytest.raises(ValueError, match="recompute must be one of auto, nothing, blocks; found 'all'"):
        kept("decoder", "all", 4)
