"""Tests that torch modules predict, learn and are saved in JAX as they do in torch."""

import copy
import os
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch import nn
from torch.utils._device import _device_constructors
from transformers.initialization import meta_device_safe_creation_ops

import gap_jax
from gap_jax.models.torch_modules import engines
from gap_jax.models.torch_modules.module import first_prediction
from gap_jax.stages.classifier_tuning import masked_optimizer
from gap_jax.stages.finetune import finetune
from tests.torch_references.folders import nchw
from tests.torch_references.modules import BUILDERS, StochasticDepth, build

FAST = ["cnn", "mobile_net"]
SLOW = [name for name in BUILDERS if name not in FAST]
KINDS = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def random_images(side, count=3):
    return np.random.default_rng(0).random((count, side, side, 3), np.float32)


def assert_close(ours, theirs, scale=None, message=""):
    scale = np.abs(theirs).max() if scale is None else scale
    np.testing.assert_allclose(np.asarray(ours) / scale, theirs / scale, rtol=0, atol=1e-5, err_msg=message)


def values_and_gradients(predict, params, images):
    """The prediction, a random projection's gradients to parameters and images, and the further loss's."""

    @jax.jit
    def compute(params, images):
        shape = jax.eval_shape(predict, params, images)[0].shape
        weights = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        prediction, pullback = jax.vjp(predict, params, images)
        return prediction[0], weights, pullback((jnp.asarray(weights), jnp.ones(())))

    return compute(params, images)


def assert_equal_to_torch(network, module, side, train):
    images = random_images(side)

    def predict(params, images):
        if train:
            return network.training(params, images, jax.random.split(jax.random.key(0), len(images)))
        return network.predict(params, images), jnp.zeros(())

    prediction, weights, (to_params, to_images) = values_and_gradients(predict, network.params, images)
    theirs = copy.deepcopy(module).train(train)
    pixels = nchw(images).requires_grad_()
    expected = first_prediction(theirs(pixels))
    if expected.ndim == 4:
        expected = expected.permute(0, 2, 3, 1)
    assert_close(prediction, expected.detach().numpy())
    (expected * torch.from_numpy(np.array(weights))).sum().backward()
    assert_close(to_images, pixels.grad.permute(0, 2, 3, 1).numpy())
    gradients = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
    largest = max(np.abs(gradient).max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        assert_close(to_params["parameters"][name], gradient, largest, name)
    if not train:
        return
    for name, buffer in theirs.named_buffers():  # `training` moves them by its further loss
        if name in network.params["buffers"]:
            moved = network.params["buffers"][name] - to_params["buffers"][name]
            np.testing.assert_allclose(moved, buffer.numpy(), rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("kind", KINDS)
def test_predictions_and_all_gradients_equal_torch(kind, train):
    module, side = build(kind)
    assert_equal_to_torch(gap_jax.from_torch(module, engine="torchax"), module, side, train)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("timm", "mobilenetv3_small_050"),
        ("timm", "resnet10t"),
        ("torchvision", "resnet18"),
        ("torchvision", "mobilenet_v3_small"),
        ("torchvision", "efficientnet_b0"),
        ("torchvision", "swin_t"),
    ],
)
def test_networks_of_other_libraries_equal_torch(library, name):
    found = pytest.importorskip(library, reason=f"{library} is not installed")
    torch.manual_seed(0)
    make = partial(found.create_model, name) if library == "timm" else getattr(found.models, name)
    module = make(num_classes=5).eval()
    assert_equal_to_torch(gap_jax.from_torch(module, engine="torchax"), module, 64, train=False)


@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_a_module_that_torchax_cannot_run_is_called_on_the_host(train):
    class OnTheHost(type(build("cnn")[0])):
        def forward(self, x):
            # numpy sees no tensor of JAX; torch differentiates the rest
            return super().forward(x * float(np.tanh(self.offset.numpy() * float(x.detach().max())).mean()))

    module, side = build("cnn")
    module.__class__ = OnTheHost
    with pytest.warns(UserWarning, match="torchax cannot run OnTheHost .*called on the host"):
        network = gap_jax.from_torch(module)
    assert_equal_to_torch(network, module, side, train)


def test_fine_tuning_is_torchs(tmp_path):
    """Ten steps of AdamW with batch norm's statistics; then the state dict is torch's, too."""
    module, side = build("cnn")
    network = gap_jax.from_torch(module)
    images, labels = random_images(side, 4), np.array([0, 3, 2, 1])
    batch = {"image": images, "label": labels}
    tuned = finetune(
        network.predict,
        network.params,
        lambda logits, batch: optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]),
        [{name: array[i] for name, array in batch.items()} for i in range(4)],
        lambda example, random: example,
        masked_optimizer(optax.adamw(1e-3, eps=1e-3, weight_decay=0.1), network.trainable),
        {"clean": batch},
        training=network.training,
        steps=10,
        images_per_step=4,
        seed=0,
        folder=tmp_path,
        config={},
    )
    theirs = copy.deepcopy(module).train()
    learning = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, 1e-3, eps=1e-3, weight_decay=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.cross_entropy(theirs(nchw(images)), torch.from_numpy(labels)).backward()
        optimizer.step()
    state = gap_jax.to_torch(module, tuned)
    expected = theirs.state_dict()
    assert list(state) == list(expected)
    for name, value in expected.items():
        assert state[name].dtype == value.dtype
        np.testing.assert_allclose(state[name], value, rtol=1e-4, atol=2e-5, err_msg=name)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    unchanged = gap_jax.to_torch(module, network.params)
    assert all(torch.equal(value, unchanged[name]) for name, value in before.items())  # to the bit
    module.load_state_dict(state)
    with torch.no_grad():
        ours = module.eval()(nchw(images)).numpy()
    assert_close(network.predict(tuned, images), ours)


def test_a_module_makes_tensors_after_transformers_loaded_another():
    """While transformers loads a model, it replaces `torch.linspace`, which the module calls, too."""
    _device_constructors.cache_clear()
    with meta_device_safe_creation_ops(), torch.device("meta"):
        torch.zeros(1)
    engines._environment.cache_clear()
    gap_jax.from_torch(build("cnn")[0], engine="torchax")


class OnlyDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return nn.functional.dropout(x * self.scale, 0.25, self.training)


@pytest.mark.parametrize("engine", ["torchax", "callback"])
def test_dropout_draws_with_the_key_and_its_gradient_has_the_same_draw(engine):
    network = gap_jax.from_torch(OnlyDropout(), engine=engine)
    images = random_images(64) + 1

    @jax.jit
    def run(key):
        keys = jax.random.split(key, len(images))
        dropped, pullback = jax.vjp(lambda images: network.training(network.params, images, keys)[0], images)
        return dropped, pullback(jnp.ones_like(images))[0]

    dropped, gradient = run(jax.random.key(0))
    np.testing.assert_allclose(dropped, images * gradient, rtol=1e-6)
    factors, counts = np.unique(np.round(gradient, 4), return_counts=True)
    np.testing.assert_allclose(factors, [0, 1.3333])
    assert counts[0] / counts.sum() == pytest.approx(0.25, abs=0.02)
    assert np.array_equal(run(jax.random.key(0))[0], dropped)
    assert np.mean((run(jax.random.key(1))[0] == 0) == (dropped == 0)) < 0.7  # 0.625 for independent draws
    np.testing.assert_array_equal(network.predict(network.params, images), images)
    several = jax.vmap(network.predict, (None, 0))(network.params, images[:, None])  # as prompts are mapped
    np.testing.assert_array_equal(several, images[:, None])


def test_stochastic_depth_of_timms_kind_drops_the_branches_of_whole_examples():
    module = nn.Sequential(StochasticDepth(0.25))
    network = gap_jax.from_torch(module, engine="torchax")
    images = random_images(2, 400) + 1
    keys = jax.random.split(jax.random.key(0), len(images))
    dropped = jax.jit(network.training)(network.params, images, keys)[0] / images
    assert np.ptp(dropped, (1, 2, 3)).max() < 1e-6
    factors, counts = np.unique(np.round(dropped[:, 0, 0, 0], 4), return_counts=True)
    np.testing.assert_allclose(factors, [0, 1.3333])
    assert counts[0] / len(images) == pytest.approx(0.25, abs=0.07)
    np.testing.assert_array_equal(network.predict(network.params, images), images)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torchax", "callback"])
def test_eight_devices_predict_and_learn_as_torch(engine):
    """A batch is split over the devices; batch norm's statistics are those of the whole batch."""
    script = Path(__file__).with_name("on_devices.py")
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-W", "ignore", script, engine]
    root = Path(__file__).parents[3]
    changed = {"XLA_FLAGS": flags, "PYTHONPATH": str(root), "NPROC": "9"}
    subprocess.run(command, cwd=root, env=os.environ | changed, check=True)


@pytest.mark.parametrize(
    ("processes", "message"),
    [
        (1, "4 CPU devices needs 5 threads .* found 4: set .*NPROC=5 "),
        (2, "of several .* found 2 processes"),
    ],
)
def test_a_call_on_the_host_that_would_wait_forever_is_refused(monkeypatch, processes, message):
    module, side = build("cnn")
    network = gap_jax.from_torch(module, engine="callback")
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    monkeypatch.setenv("NPROC", "4")
    for predict in (network.predict, lambda _, images: gap_jax.canny_condition(images)):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(predict, network.params, random_images(side, 2))
    if processes == 1:
        monkeypatch.setenv("NPROC", "5")
        assert jax.eval_shape(network.predict, network.params, random_images(side, 2)).shape == (2, 5)


def test_modules_that_do_not_fit_are_refused():
    class TwoOutputs(nn.Module):
        def forward(self, x):
            return {"boxes": x, "scores": x}

    with pytest.raises(TypeError, match=r"must return a tensor, .* logits.*found dict: give"):
        gap_jax.from_torch(TwoOutputs())
    network = gap_jax.from_torch(TwoOutputs(), output=lambda found: found["boxes"])
    images = random_images(8)
    np.testing.assert_array_equal(network.predict(network.params, images), images)

    module, _ = build("cnn")
    network = gap_jax.from_torch(module)
    with pytest.raises(
        ValueError, match=r"params has first.0.weight of shape \[8, 3, 3, 3\], but Linear has"
    ):
        gap_jax.to_torch(nn.Linear(2, 2), network.params)
    small = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(RuntimeError) as caught:
        gap_jax.from_torch(small)
    assert "give the size" in "".join(caught.value.__notes__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gap_jax.from_torch(small, gap_jax.Preprocessing(size=(2, 2)))
