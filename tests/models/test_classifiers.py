"""Tests that classifiers equal torch's with the same small random weights, in both modes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict

from gap_jax.data.loader import Batches
from gap_jax.models.parameters import batch_norm_statistics, freeze, statistics_loss
from gap_jax.models.resnet import ResNet
from gap_jax.models.vit import ViT
from gap_jax.stages.classifier_tuning import last_layer, masked_optimizer, with_new_head
from gap_jax.stages.train import train
from gap_jax.tasks.classification import cross_entropy
from gap_jax.weights.classifier import load_classifier
from gap_jax.weights.convert import to_torch, torch_key
from gap_jax.weights.torchvision import without_counts
from tests.torch_references.classifiers import CLASSES, torchvision
from tests.torch_references.folders import nchw, nhwc, relative_error

SHAPES = {"resnet": [(1, 64, 64), (3, 64, 96)], "vit": [(1, 32, 32), (3, 32, 32)]}
KINDS = {"resnet": "classifier.1", "vit": "classifier"}  # with the names of their heads


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The files of the torch networks, by kind."""
    folder = tmp_path_factory.mktemp("torchvision")
    for kind in KINDS:
        torch.save(torchvision(kind).state_dict(), folder / f"{kind}.pth")
    return {kind: folder / f"{kind}.pth" for kind in KINDS}


@pytest.fixture
def by_path(tmp_path):
    """A function from a state dict with torchvision's names to the parameters that the loader makes of it."""

    def read(state):
        torch.save(state, tmp_path / "state.pth")
        return flatten_dict(load_classifier(tmp_path / "state.pth")[1])

    return read


@pytest.fixture(params=KINDS)
def pair(request, files):
    """The kind, torch's network, and ours with its parameters, read from torch's file."""
    return request.param, torchvision(request.param), *load_classifier(files[request.param])


def data(kind, i=-1, classes=CLASSES):
    shape, draw = SHAPES[kind][i], np.random.default_rng(0)
    images = draw.random((*shape, 3), np.float32)
    return images, draw.normal(size=(shape[0], classes)).astype(np.float32)


@pytest.mark.parametrize("i", [0, 1], ids=["batch 1", "batch 3"])
def test_logits_and_gradient_equal_torch(pair, i):
    kind, theirs, model, params = pair
    images, weights = data(kind, i)

    @jax.jit
    def gradient(images):
        def loss(images):
            logits = model.apply({"params": params}, images)
            return (logits * weights).sum(), logits

        return jax.grad(loss, has_aux=True)(images)

    image_gradient, logits = gradient(images)
    x = nchw(images).requires_grad_()
    expected = theirs(x)
    (expected * torch.from_numpy(weights)).sum().backward()
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits, expected.detach(), atol=1e-4 * float(expected.detach().abs().max()))
    assert relative_error(image_gradient, nhwc(x.grad)) < 1e-3


@pytest.mark.parametrize("i", [0, 1], ids=["batch 1", "batch 3"])
def test_training_mode_equals_torch(pair, i, by_path):
    """Compares logits, gradients to images and parameters, and running statistics."""
    kind, theirs, model, params = pair
    images, weights = data(kind, i)

    @jax.jit
    def gradients(params, images):
        def loss(params, images):
            logits, updated = model.apply({"params": params}, images, train=True, mutable="params")
            return (logits * weights).sum(), (logits, updated["params"])

        return jax.grad(loss, (0, 1), has_aux=True)(params, images)

    (to_params, to_images), (logits, updated) = gradients(params, images)
    x = nchw(images).requires_grad_()
    expected = theirs.train()(x)
    (expected * torch.from_numpy(weights)).sum().backward()
    np.testing.assert_allclose(logits, expected.detach(), atol=1e-4 * float(expected.detach().abs().max()))
    assert relative_error(to_images, nhwc(x.grad)) < 1e-3

    moved = by_path(theirs.state_dict())
    gradient = by_path(theirs.state_dict() | {name: p.grad for name, p in theirs.named_parameters()})
    mask = flatten_dict(batch_norm_statistics(params))
    assert any(mask.values()) == (kind == "resnet")
    new, slopes = flatten_dict(updated), flatten_dict(to_params)
    for path, old in flatten_dict(params).items():
        if mask[path]:
            np.testing.assert_allclose(new[path], moved[path], rtol=1e-4, atol=1e-5)
            assert relative_error(old, moved[path]) > 1e-3 and not np.any(slopes[path])
        else:
            np.testing.assert_array_equal(new[path], old)
            largest = np.abs(gradient[path]).max()  # next to none for the keys' biases in attention
            assert relative_error(slopes[path], gradient[path]) < 1e-3 or largest < 1e-5, path


def test_one_value_a_channel_cannot_train(files):
    model, params = load_classifier(files["resnet"])
    with pytest.raises(ValueError, match=r"more than one value per channel, found shape \[1, 1, 1, 16\]"):
        jax.eval_shape(lambda: model.apply({"params": params}, jnp.zeros((1, 32, 32, 3)), train=True))


@pytest.mark.parametrize("trained", ["everything", "last layer"])
def test_the_training_loop_does_as_torchs_optimiser(files, trained, by_path, tmp_path):
    """Takes two steps of SGD with momentum and weight decay by `stages.train`, in training mode."""
    model, params = load_classifier(files["resnet"])
    images, labels = data("resnet")[0], np.array([0, 3, 2])
    masks = {} if trained == "everything" else {"trainable": last_layer}

    def loss(params, frozen, batch, keys):
        weights = freeze(params, **masks) if masks else params
        given = {"params": weights}, batch["image"]
        logits, updated = model.apply(*given, train=True, mutable="params")
        return cross_entropy(logits, batch["label"]).mean() + statistics_loss(params, updated["params"]), {}

    sgd = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.01, momentum=0.9))
    source = [{"image": image, "label": label} for image, label in zip(images, labels, strict=True)]
    tuned = train(
        loss,
        params,
        masked_optimizer(sgd, **masks),
        Batches(source, lambda example, random: example, size=3, seed=0),
        steps=2,
        key=jax.random.key(0),
        folder=tmp_path / "run",
        config={},
    )

    theirs = torchvision("resnet").train()
    chosen = theirs.fc.parameters() if masks else theirs.parameters()
    optimizer = torch.optim.SGD(chosen, 0.01, momentum=0.9, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(theirs(nchw(images)), torch.from_numpy(labels)).backward()
        optimizer.step()
    expected = by_path(theirs.state_dict())
    start, head = flatten_dict(params), flatten_dict(last_layer(params))
    for path, value in flatten_dict(tuned).items():
        np.testing.assert_allclose(value, expected[path], rtol=1e-3, atol=1e-4, err_msg=str(path))
        moves = not masks or head[path] or "running" in path[-1]
        assert np.array_equal(value, start[path]) != moves, path


def test_evaluation_mode_leaves_statistics_alone(files):
    model, params = load_classifier(files["resnet"])
    images, weights = data("resnet")
    optimizer = masked_optimizer(optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)))

    @jax.jit
    def step(params):
        grads = jax.grad(lambda p: (model.apply({"params": p}, images) * weights).sum())(params)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    mask, new = flatten_dict(batch_norm_statistics(params)), flatten_dict(step(params))
    for path, old in flatten_dict(params).items():
        assert np.array_equal(new[path], old) == mask[path], path


def test_the_last_layer_is_the_heads(pair):
    kind, _, _, params = pair
    chosen = [path for path, on in flatten_dict(last_layer(params)).items() if on]
    assert sorted(chosen) == [(KINDS[kind], "bias"), (KINDS[kind], "kernel")]


def test_a_new_head_has_the_classes_asked_for_and_keeps_the_rest(pair):
    kind, _, model, params = pair
    other, new = with_new_head(model, params, 7, jax.random.key(1))
    assert other == model.clone(num_labels=7)
    head = new[KINDS[kind]]
    bound = head["kernel"].shape[0] ** -0.5
    assert head["kernel"].shape == (len(params[KINDS[kind]]["kernel"]), 7)
    for leaf in head.values():
        assert leaf.dtype == jnp.float32 and 0.6 * bound < np.abs(leaf).max() <= bound
    for name in params.keys() - {KINDS[kind]}:
        assert new[name] is params[name]
    assert jax.eval_shape(other.apply, {"params": new}, data(kind)[0]).shape == (3, 7)
    with pytest.raises(ValueError, match="num_classes must be at least 2, found 1"):
        with_new_head(model, params, 1, jax.random.key(1))


@pytest.mark.parametrize("kind, count", [("resnet", 25_557_032), ("vit", 86_567_656)])
def test_the_defaults_are_the_published_sizes(kind, count):
    """Compares with transformers' state dicts and with torchvision's documented numbers of parameters."""
    labels = {"num_labels": 1000}
    with torch.device("meta"):
        if kind == "resnet":
            theirs = transformers.ResNetForImageClassification(transformers.ResNetConfig(**labels))
        else:
            theirs = transformers.ViTForImageClassification(transformers.ViTConfig(**labels))
    model = ResNet() if kind == "resnet" else ViT()
    shapes = jax.eval_shape(model.init, jax.random.key(0), *model.example_inputs())["params"]
    trained = flatten_dict(batch_norm_statistics(shapes))
    leaves = flatten_dict(shapes)
    assert sum(leaf.size for path, leaf in leaves.items() if not trained[path]) == count
    shapes_in_torch = sorted(
        to_torch(path, np.broadcast_to(0, leaf.shape)).shape for path, leaf in leaves.items()
    )
    expected = without_counts(theirs.state_dict())
    assert shapes_in_torch == sorted(tuple(value.shape) for value in expected.values())
    if kind == "resnet":  # of ViTs, transformers ≥ 5 has other names in memory than in files
        assert {torch_key(path) for path in leaves} == set(expected)


@pytest.mark.parametrize("model", [ResNet(), ViT()])
def test_logits_are_float32_whatever_the_computation(model):
    model = model.clone(dtype=jnp.bfloat16)
    given = jax.random.key(0), *model.example_inputs()
    logits, variables = jax.eval_shape(model.init_with_output, *given)
    assert logits.shape == (1, 1000) and logits.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))


def test_updated_parameters_keep_their_type(files):
    model, params = load_classifier(files["resnet"], "bfloat16")
    images = jnp.asarray(data("resnet")[0])
    _, updated = jax.eval_shape(
        lambda p: model.apply({"params": p}, images, train=True, mutable="params"), params
    )
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(updated))


@pytest.mark.parametrize(
    "model, shape, message",
    [
        (ResNet(), (1, 64, 64, 1), "images must have shape [*, *, *, 3], found [1, 64, 64, 1]"),
        (ResNet(), (64, 64, 3), "images must have shape [*, *, *, 3], found [64, 64, 3]"),
        (ViT(), (1, 256, 224, 3), "images must have shape [*, 224, 224, 3], found [1, 256, 224, 3]: resize"),
        (ViT(), (224, 224, 3), "images must have shape [*, 224, 224, 3], found [224, 224, 3]: resize"),
    ],
)
def test_images_that_do_not_fit_are_refused(model, shape, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros(shape))
