"""Tests that the networks' forward passes equal torch's, in float32, with random weights everywhere."""

from functools import partial

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks.unet import from_torch
from gap_jax.models.attention import attention
from gap_jax.models.controlnet import ControlNet
from gap_jax.models.convolution import convolve
from gap_jax.models.layers import GroupNorm
from gap_jax.models.unet import UNet2DCondition
from gap_jax.weights.configs import build
from tests.torch_references.folders import nchw, nhwc, randomise, relative_error

RNG = np.random.default_rng(0)
WIDTH = 24


def normal(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


CONFIGS = {
    # three levels, so that an odd size is halved twice, and two layers a block
    "sd15": dict(
        block_out_channels=(16, 32, 32),
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
    ),
    "sd21": dict(
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        upcast_attention=True,
    ),
    "deep": dict(
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        transformer_layers_per_block=(1, 2),
        layers_per_block=1,
        flip_sin_to_cos=False,
        freq_shift=1,
        in_channels=9,
    ),
}


def both(cls, torch_cls, config, **extra):
    """The torch network, ours, and its parameters."""
    config = dict(norm_num_groups=8, cross_attention_dim=WIDTH, **config, **extra)
    torch.manual_seed(0)
    theirs = torch_cls(**config).eval().requires_grad_(False)
    randomise(theirs)
    ours = build(cls, dict(theirs.config), "test")
    return theirs, ours, {"params": from_torch(theirs, ours, "float32")}


@pytest.mark.parametrize("kind", CONFIGS)
def test_unet_equals_torch(kind):
    theirs, ours, params = both(UNet2DCondition, diffusers.UNet2DConditionModel, CONFIGS[kind])
    sample, context = normal(2, 10, 13, ours.in_channels), normal(2, 7, WIDTH)
    timesteps = np.array([3, 801])
    out = jax.jit(ours.apply)(params, sample, timesteps, context)
    expected = theirs(nchw(sample), torch.from_numpy(timesteps), torch.from_numpy(context)).sample
    assert relative_error(out, nhwc(expected)) < 1e-4


@pytest.mark.parametrize(("kind", "order"), [("sd15", "rgb"), ("sd21", "bgr")])
def test_controlnet_equals_torch(kind, order):
    config = {key: value for key, value in CONFIGS[kind].items() if key != "up_block_types"}
    widths = dict(conditioning_embedding_out_channels=(8, 8, 16), controlnet_conditioning_channel_order=order)
    theirs, ours, params = both(ControlNet, diffusers.ControlNetModel, config, **widths)
    sample, context, control = normal(2, 6, 8, 4), normal(2, 7, WIDTH), normal(2, 24, 32, 3)
    out = jax.jit(ours.apply)(params, sample, 500, context, control, 0.7)
    order = dict(conditioning_scale=0.7, return_dict=False)
    down, mid = theirs(nchw(sample), 500, torch.from_numpy(context), nchw(control), **order)
    for a, b in zip((*out.down, out.mid), (*down, mid), strict=True):
        assert relative_error(a, nhwc(b)) < 1e-4


def test_vae_equals_torch(sd15):
    vae, variables = sd15.pipe.vae, {"params": sd15.params["vae"]}
    images, latents = normal(2, 24, 16, 3), normal(2, 6, 4, 4)
    posterior = jax.jit(partial(vae.apply, method="encode"))(variables, images)
    expected = sd15.torch.vae.encode(nchw(images)).latent_dist
    assert relative_error(posterior.mean, nhwc(expected.mean)) < 1e-4
    assert relative_error(posterior.logvar, nhwc(expected.logvar)) < 1e-4
    decoded = jax.jit(partial(vae.apply, method="decode"))(variables, latents)
    assert relative_error(decoded, nhwc(sd15.torch.vae.decode(nchw(latents)).sample)) < 1e-4


def test_encoding_draws_from_the_posterior(sd15):
    """Each image draws from its own key; without keys, the mean is returned."""
    images = np.random.default_rng(1).random((2, 16, 16, 3), dtype=np.float32)
    keys = jax.random.split(jax.random.key(0), 2)
    posterior = sd15.torch.vae.encode(nchw(2 * images - 1)).latent_dist
    noise = np.stack([jax.random.normal(key, (4, 4, 4)) for key in keys])
    expected = nhwc(posterior.mean + posterior.std * nchw(noise)) * 0.18215
    assert relative_error(sd15.pipe.encode_image(sd15.params, images, keys), expected) < 1e-4
    assert relative_error(sd15.pipe.encode_image(sd15.params, images), nhwc(posterior.mean) * 0.18215) < 1e-4


@pytest.mark.parametrize("kind", ["sd15", "sd21"])
def test_text_encoder_equals_torch(models, kind):
    """The kinds have quick-gelu and gelu, two and three layers."""
    model = models(kind)
    ids = model.pipe.tokenize(["a room, photo", ""])
    expected = model.torch.text_encoder(torch.from_numpy(ids).long())[0]
    assert relative_error(model.pipe.encode_text(model.params, ids), expected) < 1e-4


CONVOLUTIONS = pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [(3, 1, (1, 1)), (3, 2, (1, 1)), (3, 2, (0, 1)), (7, 2, (3, 3)), (2, 2, (0, 0)), (5, 3, (0, 2))],
)


@CONVOLUTIONS
@pytest.mark.parametrize(
    ("shape", "features"),
    [
        pytest.param((2, 11, 14, 5), 6, id="more features"),
        pytest.param((2, 11, 14, 5), 4, id="fewer features"),
        pytest.param((1, 24, 64, 3), 2, id="rows in turn"),
        pytest.param((1, 257, 256, 1), 1, id="many pixels"),
        pytest.param((1, 5, 4, 3), 64, id="few pixels"),
    ],
)
def test_convolve_and_its_gradients_equal_torch(size, stride, padding, shape, features):
    x, kernel = normal(*shape), normal(size, size, shape[3], features)
    out, pull = jax.vjp(lambda x, kernel: convolve(x, kernel, stride, (padding,) * 2), x, kernel)
    cotangent = normal(*out.shape)
    theirs = nchw(x).requires_grad_(), torch.from_numpy(kernel.transpose(3, 2, 0, 1)).requires_grad_()
    padded = torch.nn.functional.pad(theirs[0], padding * 2)
    expected = torch.nn.functional.conv2d(padded, theirs[1], stride=stride)
    of_x, of_kernel = torch.autograd.grad(expected, theirs, nchw(cotangent))
    assert relative_error(out, nhwc(expected)) < 1e-5
    ours = pull(cotangent)
    assert relative_error(ours[0], nhwc(of_x)) < 1e-5
    assert relative_error(ours[1], of_kernel.permute(2, 3, 1, 0)) < 1e-5


def test_a_convolution_s_gradient_keeps_the_order_that_xla_has_fast_code_for_in_loops_on_cpus():
    kernel = normal(3, 3, 8, 8)

    def step(x, _):
        return jnp.tanh(convolve(x, kernel, 1, ((1, 1),) * 2)), None

    def loop(x):
        return jax.lax.scan(step, x, None, 5)[0].sum()

    gradient = jax.jit(jax.grad(loop)).trace(normal(1, 16, 16, 8))
    assert "01oi" not in gradient.lower(lowering_platforms=("cpu",)).compile().as_text()
    assert "[0, 1, o, i]" in gradient.lower(lowering_platforms=("tpu",)).as_text()


def test_group_norm_survives_a_large_mean():
    """A variance computed in one pass would cancel."""
    x = 1000 + normal(2, 5, 5, 16)
    norm = GroupNorm(4, 1e-5)
    ours = norm.apply({"params": {"scale": np.ones(16, np.float32), "bias": np.zeros(16, np.float32)}}, x)
    assert relative_error(ours, nhwc(torch.nn.functional.group_norm(nchw(x), 4))) < 1e-3


def test_attention_softmax_is_float32_in_half_precision():
    """Given large logits in bfloat16, it equals a float32 softmax; the scale 1/√16 is exact."""
    query, key, value = (jax.numpy.asarray(normal(1, 9, 32) * 8, "bfloat16") for _ in range(3))
    ours = attention(query, key, value, heads=2)
    assert ours.dtype == "bfloat16"
    exact = attention(*(x.astype("float32") for x in (query, key, value)), heads=2)
    assert relative_error(ours, exact) < 1e-2
