"""Tests of reading and writing classifiers in the layouts of torchvision, ALIA and transformers."""

import json
import shutil
import sys

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import gap_jax
from gap_jax.models.resnet import IMAGENET_MEAN, IMAGENET_STD, ResNet
from gap_jax.models.vit import ViT
from gap_jax.weights.__main__ import main
from gap_jax.weights.classifier import load_classifier, save_classifier
from tests.torch_references.classifiers import CLASSES, hugging_face, normalise, torchvision
from tests.torch_references.folders import nchw

KINDS = ("resnet", "vit")
MODULES = {
    "resnet": ResNet(8, (16, 32, 48, 64), (2, 1, 2, 1), num_labels=CLASSES),
    "vit": ViT(
        128,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        layer_norm_eps=1e-6,
        image_size=32,
        patch_size=8,
        num_labels=CLASSES,
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    ),
}


@pytest.fixture(scope="module")
def networks():
    return {kind: torchvision(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Networks of transformers, and the folders to which it saved them."""
    made = {}
    for kind in KINDS:
        network, folder = hugging_face(kind), tmp_path_factory.mktemp(kind)
        network.save_pretrained(folder)
        made[kind] = network, folder
    return made


def torchvisions(state, path):
    torch.save(state, path)


def safetensors(state, path):
    save_file(state, path)


def alias(state, path):
    """Save a state dict as ALIA's training does, with its measurements, which are NumPy scalars."""
    state = {f"module.{key.replace('heads.head.', 'heads.')}": value for key, value in state.items()}
    torch.save({"net": state, "acc": np.float64(0.5), "epoch": 3, "accs": [np.float32(0.5)]}, path)


def of_old(state, path):
    """Save a state dict under the names of torchvision's first ViTs."""
    for old, new in (("mlp.0.", "mlp.linear_1."), ("mlp.3.", "mlp.linear_2.")):
        state = {key.replace(old, new): value for key, value in state.items()}
    torch.save(state, path)


def lightnings(state, path):
    """Save a checkpoint as Lightning does, with a loss that has weights of its own."""
    state = {f"model.{key}": value for key, value in state.items()} | {"loss.weight": torch.ones(5)}
    torch.save({"state_dict": state, "epoch": 1, "optimizer_states": [{}]}, path)


def compiled(state, path):
    """Save a training loop's dictionary around a compiled model."""
    state = {f"_orig_mod.{key}": value for key, value in state.items()}
    torch.save({"model_state_dict": state, "optimizer": {"lr": 0.1}, "epoch": 2}, path)


def distributed(state, path):
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, path)


FORMS = [
    (torchvisions, "net.pth"),
    (safetensors, "net.safetensors"),
    (alias, "best.pth"),
    (of_old, "old.pth"),
    (lightnings, "last.ckpt"),
    (compiled, "compiled.pt"),
    (distributed, "distributed.pth"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_files_in_torchvisions_names_are_read(networks, kind, tmp_path):
    network, images = networks[kind], np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    expected, first = network(nchw(images)).detach(), None
    for write, name in FORMS:
        write(network.state_dict(), tmp_path / name)
        model, params = load_classifier(tmp_path / name)
        assert model == MODULES[kind]
        if first is None:
            first = params
            logits = jax.jit(model.apply)({"params": params}, images)
            np.testing.assert_allclose(logits, expected, atol=1e-4 * float(expected.abs().max()))
        jax.tree.map(np.testing.assert_array_equal, params, first)


@pytest.mark.parametrize("kind", KINDS)
def test_folders_of_transformers_are_read(folders, kind):
    network, folder = folders[kind]
    model, params = load_classifier(folder, image_mean=(0.5, 0.4, 0.3), image_std=(0.2, 0.3, 0.4))
    images = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    expected = network(normalise(nchw(images), model.image_mean, model.image_std)).logits.detach()
    logits = jax.jit(model.apply)({"params": params}, images)
    assert expected.std() > 0.1
    np.testing.assert_allclose(logits, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["torchvision", "transformers"])
def test_transformers_reads_what_we_write(source, kind, networks, folders, tmp_path):
    if source == "torchvision":
        torch.save(networks[kind].state_dict(), tmp_path / "net.pth")
        model, params = load_classifier(tmp_path / "net.pth")
    else:
        model, params = load_classifier(folders[kind][1])
    save_classifier(model, params, tmp_path / "folder")
    again, reloaded = load_classifier(tmp_path / "folder")
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, reloaded, params)
    cls = type(folders[kind][0])
    theirs, loading = cls.from_pretrained(tmp_path / "folder", output_loading_info=True)
    assert not any(loading.values()), loading
    assert theirs.config.num_labels == CLASSES
    images = torch.rand(2, 3, 32, 32)
    pixels = normalise(images, model.image_mean, model.image_std)
    network = networks[kind] if source == "torchvision" else folders[kind][0]
    expected = network(images) if source == "torchvision" else network(pixels).logits
    torch.testing.assert_close(theirs.eval()(pixels).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_transformers_hold_what_ours_do(folders, kind, tmp_path):
    folder = folders[kind][1]
    save_classifier(*load_classifier(folder), tmp_path / "ours")
    theirs, ours = (load_file(at / "model.safetensors") for at in (folder, tmp_path / "ours"))
    assert theirs.keys() == ours.keys()
    for key, value in theirs.items():
        assert value.dtype == ours[key].dtype and value.equal(ours[key]), key


@pytest.mark.parametrize("kind", KINDS)
def test_class_names_are_kept(folders, kind, tmp_path):
    network, names = folders[kind][0], [f"bird {i}" for i in range(CLASSES)]
    network.config.id2label = dict(enumerate(names))
    network.save_pretrained(tmp_path / "theirs")
    main(["convert", str(tmp_path / "theirs"), str(tmp_path / "ours")])
    assert load_classifier(tmp_path / "ours")[0].label_names == tuple(names)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    assert config.id2label == dict(enumerate(names))
    assert config.label2id == {name: i for i, name in enumerate(names)}
    network.config.id2label = {i: f"LABEL_{i}" for i in range(CLASSES)}


def test_class_names_must_be_numbered_and_complete(folders, tmp_path):
    shutil.copytree(folders["resnet"][1], tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"id2label": {"1": "a", "2": "b"}}))
    with pytest.raises(ValueError, match=r"config.json: id2label must map the numbers from 0 on to names"):
        load_classifier(tmp_path)
    model, params = load_classifier(folders["resnet"][1])
    with pytest.raises(ValueError, match=r"label_names must name all \d+ classes, found 1 names"):
        save_classifier(model.clone(label_names=("a",)), params, tmp_path / "other")


def test_normalisation_is_the_folders_or_what_is_given(folders, networks, tmp_path):
    shutil.copytree(folders["resnet"][1], tmp_path, dirs_exist_ok=True)
    normalise = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(normalise))
    model, _ = load_classifier(tmp_path)
    assert (model.image_mean, model.image_std) == ((0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
    torch.save(networks["vit"].state_dict(), tmp_path / "net.pth")
    given = {"image_mean": (0, 0, 0), "image_std": (1, 1, 1)}
    for path in (tmp_path, tmp_path / "net.pth"):
        model, _ = load_classifier(path, **given)
        assert (model.image_mean, model.image_std) == ((0, 0, 0), (1, 1, 1))


def test_resnets_with_basic_blocks_are_read_and_written(tmp_path):
    """ResNet-18 and -34, in torchvision's names and in transformers'."""
    network, images = torchvision("basic"), np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    torch.save(network.state_dict(), tmp_path / "net.pth")
    model, params = load_classifier(tmp_path / "net.pth")
    assert model == ResNet(8, (8, 16), (1, 2), "basic", num_labels=CLASSES)
    expected = network(nchw(images)).detach()
    logits = jax.jit(model.apply)({"params": params}, images)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * float(expected.abs().max()))
    save_classifier(model, params, tmp_path / "folder")
    again, reloaded = load_classifier(tmp_path / "folder")
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, reloaded, params)
    cls = transformers.ResNetForImageClassification
    theirs, loading = cls.from_pretrained(tmp_path / "folder", output_loading_info=True)
    assert not any(loading.values()), loading
    pixels = normalise(nchw(images), model.image_mean, model.image_std)
    torch.testing.assert_close(theirs.eval()(pixels).logits, expected, atol=1e-4, rtol=1e-4)


def test_a_pooler_that_classifiers_do_not_use_is_ignored(folders, tmp_path):
    shutil.copytree(folders["vit"][1], tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"vit.pooler.dense.weight": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match=r"1 tensors of other parts, such as vit\.pooler\.dense\.weight"):
        _, params = load_classifier(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, params, load_classifier(folders["vit"][1])[1])


def change(key, value):
    return lambda state: state | {key: value}


def without(*keys):
    return lambda state: {name: value for name, value in state.items() if name not in keys}


@pytest.mark.parametrize(
    "kind, make, message",
    [
        (
            "resnet",
            lambda state: ["weights"],
            "net.pth must hold a state dict.* found an object of type list",
        ),
        (
            "resnet",
            lambda state: {"net": {"acc": 3}},
            "net.pth must hold a state dict.* found an object of type int at 'acc'",
        ),
        (
            "resnet",
            lambda state: {"a.weight": torch.ones(2)},
            "must hold torchvision's ResNet .* found a.wei",
        ),
        ("resnet", lambda state: {}, "must hold torchvision's ResNet .* found no tensors"),
        ("resnet", without("fc.weight"), "net.pth lacks fc.weight"),
        ("resnet", without("fc.bias"), "net.pth lacks classifier.1.bias"),
        ("resnet", without("layer2.0.bn2.running_var"), r"lacks resnet.*stages.1.layers.0.layer.1.*var"),
        ("resnet", change("extra.bias", torch.ones(3)), "net.pth holds extra.bias"),
        (
            "resnet",
            change("layer1.1.conv2.weight", torch.ones(8, 8, 3, 3)),
            r"must have shape .*, found \[8, 8, 3, 3\]",
        ),
        ("vit", without("heads.head.weight"), "net.pth lacks heads.head.weight"),
        ("vit", without("class_token"), "net.pth lacks vit.embeddings.cls_token"),
        ("vit", change("conv_proj.weight", torch.ones(100, 3, 8, 8)), "must be a multiple of 64, found 100"),
        (
            "vit",
            change("encoder.pos_embedding", torch.ones(1, 20, 128)),
            r"must have shape .*, found \[1, 20, 128\]",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(networks, kind, make, message, tmp_path):
    torch.save(make(networks[kind].state_dict()), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=message):
        load_classifier(tmp_path / "net.pth")


def test_a_truncated_file_is_refused(networks, tmp_path):
    for name, write in (("net.pth", torchvisions), ("net.safetensors", safetensors)):
        write(networks["vit"].state_dict(), tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-5000])
        with pytest.raises(ValueError, match=rf"{name}.* (as weights|perhaps truncated)"):
            load_classifier(tmp_path / name)


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        ("resnet", {"layer_type": "wide"}, "layer_type must be 'bottleneck' or 'basic', found 'wide'"),
        ("resnet", {"downsample_in_bottleneck": True}, "downsample_in_bottleneck must be False, found True"),
        ("resnet", {"depths": [1, 2]}, "depths must have as many entries as hidden_sizes, 3; found 2"),
        ("resnet", {"depths": [1, 3, 1]}, "lacks .*stages.1.layers.2.*another config.json"),
        ("resnet", {"embedding_size": "8"}, "embedding_size must be of the type of 64, found '8'"),
        ("resnet", {"id2label": {"0": "a", "1": "b"}}, r"must have shape \[2.*, found \[5"),
        (
            "resnet",
            {"model_type": "convnext"},
            r"config.json must be of a ResNetFor.*, found model_type 'convnext' and arch",
        ),
        ("vit", {"hidden_act": "relu"}, "hidden_act must be 'gelu', found 'relu'"),
        ("vit", {"image_size": [32, 32]}, r"image_size must be of the type of 224, found \(32, 32\)"),
        ("vit", {"architectures": ["ViTModel"]}, r"must be of a ResNetForIm.*architectures \['ViTModel'\]"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(folders, kind, changes, message, tmp_path):
    shutil.copytree(folders[kind][1], tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ValueError, match=message):
        load_classifier(tmp_path)


def test_without_torch_a_pickle_says_what_to_install(networks, tmp_path, monkeypatch):
    torch.save(networks["vit"].state_dict(), tmp_path / "net.pth")
    save_file(networks["vit"].state_dict(), tmp_path / "net.safetensors")
    monkeypatch.setitem(sys.modules, "torch", None)
    load_classifier(tmp_path / "net.safetensors")
    with pytest.raises(ImportError, match="pip install"):
        load_classifier(tmp_path / "net.pth")


def test_convert_knows_classifiers(networks, folders, tmp_path, capsys):
    sources = [(folders[kind][1], "transformers' layout") for kind in KINDS]
    for kind in KINDS:
        for form, (write, name) in enumerate(FORMS[:3]):
            path = tmp_path / f"{kind}-{form}-{name}"
            write(networks[kind].state_dict(), path)
            sources.append((path, "torchvision's names"))
    for i, (source, form) in enumerate(sources):
        main(["convert", str(source), str(tmp_path / str(i))])
        output = capsys.readouterr().out
        assert f"MB): {'ResNet' if 'resnet' in source.name else 'ViT'}, {form}" in output
        jax.tree.map(
            np.testing.assert_array_equal,
            load_classifier(tmp_path / str(i)),
            load_classifier(source),
        )


def test_transformers_prepares_images_as_saved_classifiers_do(networks, tmp_path):
    torch.save(networks["resnet"].state_dict(), tmp_path / "net.pth")
    save_classifier(*load_classifier(tmp_path / "net.pth"), tmp_path / "folder")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "folder")
    image = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    pixels = processor(image, return_tensors="np")["pixel_values"][0]
    expected = (image / 255 - IMAGENET_MEAN) / IMAGENET_STD
    np.testing.assert_allclose(np.moveaxis(pixels, 0, -1), expected, atol=1e-5)


def test_the_depth_loader_still_refuses_classifiers(networks, tmp_path):
    torch.save(networks["resnet"].state_dict(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match="must hold XTC's U-Net"):
        gap_jax.load_depth(tmp_path / "net.pth")
