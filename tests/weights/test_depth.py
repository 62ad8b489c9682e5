"""Tests of reading and writing depth models, and of the command `convert`."""

import argparse
import json
import os
import shutil
import sys

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import gap_jax
from gap_jax.models.bit import BitConfig
from gap_jax.models.depth_unet import DepthUNet
from gap_jax.weights.__main__ import main
from gap_jax.weights.convert import state_dict
from tests.models.test_depth_unet import TorchUNet
from tests.torch_references.depth import omnidata_dpt, predict, transformers_dpt
from tests.torch_references.folders import nchw, nhwc, relative_error

TASK = "('rgb', 'depth_zbuffer')"


class Callback:
    """A stand-in for the objects that training frameworks leave in a checkpoint besides its weights."""


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return TorchUNet(2, 8).state_dict()


@pytest.fixture(scope="module")
def omnidata():
    return omnidata_dpt()


@pytest.fixture(scope="module")
def lightning(omnidata, tmp_path_factory):
    """A checkpoint as Lightning writes it, of the network and of a loss that has a weight too."""
    path = tmp_path_factory.mktemp("omnidata") / "omnidata_dpt_depth.ckpt"
    state = {f"model.{key}": value for key, value in omnidata.state_dict().items()}
    content = {
        "epoch": 3,
        "state_dict": state | {"vnl_loss.fx": torch.ones(1)},
        "callbacks": {Callback: {"best": torch.ones(())}},
        "hyper_parameters": argparse.Namespace(config=Callback(), lr=1e-5),
    }
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def dpt(tmp_path_factory):
    """A small DPT-hybrid of transformers and its folder."""
    folder, network = tmp_path_factory.mktemp("dpt"), transformers_dpt("hybrid")
    network.save_pretrained(folder)
    return network, folder


def nested(state):
    return {TASK: {f"module.model.unet.{key}": value for key, value in state.items()}, "step": 7}


@pytest.mark.parametrize("form", [dict, nested])
def test_xtc_checkpoints_are_read(unet, form, tmp_path):
    torch.save(form(unet), tmp_path / "rgb2depth_consistency.pth")
    model, params = gap_jax.load_depth(tmp_path / "rgb2depth_consistency.pth")
    assert model == DepthUNet(levels=2, width=8)
    tensors = state_dict(params)
    assert tensors.keys() == unet.keys()
    for key, value in unet.items():
        np.testing.assert_array_equal(tensors[key], value)


def test_an_omnidata_checkpoint_predicts_as_its_network(omnidata, lightning):
    model, params = gap_jax.load_depth(lightning)
    assert model.backbone_config == BitConfig(32, (128, 128, 256), (1, 2, 1))
    images = np.random.default_rng(0).random((2, 64, 32, 3), np.float32)
    depth = jax.jit(model.apply)({"params": params}, images)
    expected = nhwc(omnidata(2 * nchw(images) - 1))
    assert 0.3 < (expected > 0).mean() < 1 and expected.std() > 0.05 * expected.max()
    np.testing.assert_allclose(depth, expected, atol=1e-4 * expected.max())


@pytest.mark.parametrize("source", ["dpt", "lightning"])
def test_transformers_reads_what_we_write(source, omnidata, lightning, dpt, tmp_path):
    model, params = gap_jax.load_depth(dpt[1] if source == "dpt" else lightning)
    gap_jax.save_depth(model, params, tmp_path / "depth")
    again, reloaded = gap_jax.load_depth(tmp_path / "depth")
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, reloaded, params)
    torchs, loading = transformers.DPTForDepthEstimation.from_pretrained(
        tmp_path / "depth", output_loading_info=True
    )
    assert not any(loading.values())
    pixels = 2 * torch.rand(1, 3, 64, 64) - 1
    expected = predict(dpt[0], pixels) if source == "dpt" else omnidata(pixels)
    assert relative_error(predict(torchs, pixels).detach(), expected) < 1e-5


@pytest.mark.parametrize("source", ["dpt", "lightning"])
@pytest.mark.parametrize("recompute", ["nothing", "blocks"])
def test_gradients_compute_the_blocks_again_where_it_is_asked_for(source, recompute, lightning, dpt):
    model, params = gap_jax.load_depth(dpt[1] if source == "dpt" else lightning, recompute=recompute)
    images = np.zeros((1, 32, 32, 3), np.float32)
    program = jax.make_jaxpr(lambda params: model.apply({"params": params}, images))(params)
    names = {equation.primitive.name for equation in program.eqns}
    assert (names & {"checkpoint", "remat2"} != set()) == (recompute == "blocks")


def test_transformers_pickles_and_normalisation_are_read(dpt, tmp_path):
    network, folder = dpt
    shutil.copy(folder / "config.json", tmp_path)
    torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
    normalise = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(normalise))
    (model, params), (_, expected) = gap_jax.load_depth(tmp_path), gap_jax.load_depth(folder)
    assert (model.image_mean, model.image_std) == ((0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
    jax.tree.map(np.testing.assert_array_equal, params, expected)


class Harmful:
    def __reduce__(self):
        return os.system, ("false",)


def change(key, value):
    return lambda state: state | {key: value}


def without(key):
    return lambda state: {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda state: Harmful(), "cannot read .*depth.pth as weights"),
        (lambda state: ["weights"], "depth.pth must hold a state dict, .* found an object of type list"),
        (change("epoch", 3), "depth.pth must hold a state dict"),
        (lambda state: {"fc.weight": torch.ones(2, 2)}, "must hold XTC's U-Net .* found fc.weight"),
        (without("last_conv2.weight"), "depth.pth lacks last_conv2.weight"),
        (without("up_blocks.0.bn2.bias"), "depth.pth lacks up_blocks.0.bn2.bias"),
        (change("extra.bias", torch.ones(3)), "depth.pth holds extra.bias"),
        (
            change("mid_conv1.weight", torch.ones(8, 8, 3, 3)),
            r"mid_conv1.weight in .*depth.pth must have shape \[32, 32, 3, 3\], found \[8, 8, 3, 3\]",
        ),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(unet, make, message, tmp_path):
    torch.save(make(unet), tmp_path / "depth.pth")
    with pytest.raises(ValueError, match=message):
        gap_jax.load_depth(tmp_path / "depth.pth")


def test_a_truncated_checkpoint_is_refused(lightning, tmp_path):
    (tmp_path / "depth.ckpt").write_bytes(lightning.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"cannot read .*depth.ckpt as weights"):
        gap_jax.load_depth(tmp_path / "depth.ckpt")


def test_an_omnidata_checkpoint_of_another_depth_is_refused(omnidata, tmp_path):
    state = {key: value for key, value in omnidata.state_dict().items() if ".blocks.3." not in key}
    torch.save(state, tmp_path / "depth.ckpt")
    with pytest.raises(
        ValueError, match=r"depth.ckpt: the number of transformer blocks must be a multiple of 4, found 3"
    ):
        gap_jax.load_depth(tmp_path / "depth.ckpt")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_hidden_layers": 5}, "lacks dpt.encoder.layer.4.*another config.json"),
        ({"num_hidden_layers": 3}, "backbone_out_indices must be different layers in 0..2 .*, found"),
        ({"hidden_size": 64}, r"must have shape .*64.*, found .*32"),
        (
            {"use_batch_norm_in_fusion_residual": True},
            "use_batch_norm_in_fusion_residual must be False or None, found True",
        ),
        ({"patch_size": 14}, "patch_size must be 16, found 14"),
        (
            {"is_hybrid": False},
            "backbone_config must be null unless is_hybrid is true, found model_type 'bit'",
        ),
        ({"neck_hidden_sizes": [1, 2, 3]}, "neck_hidden_sizes must have 4 entries"),
        (
            {"reassemble_factors": [4, 2, 1, 1]},
            r"reassemble_factors must be \(4, 2, 1, 0.5\), found \(4, 2, 1, 1\)",
        ),
        (
            {"architectures": ["DPTForSemanticSegmentation"]},
            "architectures must be .*, found .*SemanticSegmentation",
        ),
    ],
)
def test_configurations_that_do_not_fit_are_refused(dpt, changes, message, tmp_path):
    shutil.copytree(dpt[1], tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ValueError, match=message):
        gap_jax.load_depth(tmp_path)


def test_a_missing_weight_is_named_with_its_file(dpt, tmp_path):
    shutil.copytree(dpt[1], tmp_path, dirs_exist_ok=True)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["neck.convs.1.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"model.safetensors lacks neck.convs.1.weight"):
        gap_jax.load_depth(tmp_path)


def test_without_torch_a_pickle_says_what_to_install(lightning, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="pip install"):
        gap_jax.load_depth(lightning)


def test_convert_says_what_it_found_and_writes_it(unet, lightning, dpt, sd15, clip, tmp_path, capsys):
    torch.save(unet, tmp_path / "xtc.pth")
    sources = [
        (tmp_path / "xtc.pth", gap_jax.load_depth, "the depth U-Net, XTC's checkpoint"),
        (lightning, gap_jax.load_depth, "DPT-hybrid, Omnidata's checkpoint"),
        (dpt[1], gap_jax.load_depth, "DPT-hybrid, transformers' layout"),
        (clip.folder, gap_jax.load_clip, "CLIP, transformers' layout"),
        (sd15.folder, gap_jax.load_pipeline, "Stable Diffusion, diffusers' layout"),
    ]
    for i, (source, load, kind) in enumerate(sources):
        target = tmp_path / "targets" / str(i)
        main(["convert", str(source), str(target)])
        output = capsys.readouterr().out
        assert f"MB): {kind}" in output and "M parameters" in output and "as float32" in output
        jax.tree.map(np.testing.assert_array_equal, load(target)[1], load(source)[1])


def test_convert_ends_with_a_message(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SystemExit, match=r"error: torch cannot read .*notes.txt"):
        main(["convert", str(tmp_path / "notes.txt"), str(tmp_path / "target")])
    with pytest.raises(SystemExit, match=r"error: SOURCE .*absent does not exist"):
        main(["convert", str(tmp_path / "absent"), str(tmp_path / "target")])
