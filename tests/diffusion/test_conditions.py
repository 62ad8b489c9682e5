"""Conditions of labels, and several ControlNets at once, against OpenCV and diffusers."""

import cv2
import diffusers
import jax
import numpy as np
import pytest
import torch
from diffusers.models.controlnets.multicontrolnet import MultiControlNetModel

import gap_jax
from gap_jax.diffusion.align import Sampling, generate
from gap_jax.diffusion.conditions import ADE20K_COLOURS
from gap_jax.models.controlnet import ControlNets
from tests.torch_references.folders import nchw, nhwc, randomise, relative_error

RNG = np.random.default_rng(0)


def test_classes_are_in_the_colours_of_ade20k():
    """The colours of some classes in the devkit's `color150`, which has 150, two of them equal."""
    known = {0: "wall 120 120 120", 1: "building 180 120 120", 2: "sky 6 230 230", 3: "floor 80 50 50"}
    known |= {12: "person 150 5 61", 20: "car 0 102 200", 123: "133 255 0", 149: "flag 92 0 255"}
    assert ADE20K_COLOURS.shape == (150, 3) and len(np.unique(ADE20K_COLOURS, axis=0)) == 149
    numbers = np.array(list(known)).reshape(1, 2, 4, 1)
    seen = np.asarray(gap_jax.class_condition(numbers)).reshape(-1, 3)
    for colour, text in zip(seen, known.values(), strict=True):
        np.testing.assert_allclose(colour * 255, [int(word) for word in text.split()[-3:]], rtol=1e-6)
    ignored = gap_jax.class_condition(np.array([255, -1, 150], np.int16).reshape(1, 1, 3, 1))
    np.testing.assert_array_equal(ignored, np.zeros((1, 1, 3, 3)))


def test_normals_and_edges_are_what_controlnet_was_trained_on():
    normals = np.array([[0, 0, 1], [-1, 0, 0], [0, 0, 0]], np.float32).reshape(1, 1, 3, 3)
    np.testing.assert_allclose(
        gap_jax.normal_condition(normals)[0, 0], [[0.5, 0.5, 1], [0, 0.5, 0.5], [0, 0, 0]]
    )
    pixels = np.repeat(np.repeat(RNG.integers(0, 256, (2, 4, 5, 3), np.uint8), 8, 1), 8, 2)
    seen = jax.jit(gap_jax.canny_condition)(np.float32(pixels) / 255)
    for image, edges in zip(pixels, np.asarray(seen), strict=True):
        expected = cv2.Canny(image, 100, 200)
        assert 0 < (expected > 0).mean() < 0.5
        np.testing.assert_array_equal(edges, np.repeat(expected[..., None], 3, -1) / 255)


@pytest.fixture(scope="module")
def two(models, tmp_path_factory):
    """A folder with a second ControlNet, and the torch model of both."""
    folder = tmp_path_factory.mktemp("second")
    first = models("sd15").torch.controlnet
    torch.manual_seed(5)
    second = diffusers.ControlNetModel.from_config(first.config)
    randomise(second)
    second.save_pretrained(folder)
    return folder, MultiControlNetModel([first, second]).eval()


def test_two_controlnets_add_up_and_are_saved_as_in_diffusers(models, two, tmp_path):
    folder, theirs = two
    sd15 = models("sd15")
    paths = [sd15.folder / "controlnet", folder]
    pipe, params = gap_jax.load_pipeline(sd15.folder, controlnet=paths)
    assert isinstance(pipe.controlnet, ControlNets)
    latents, context = (RNG.standard_normal(s, np.float32) for s in ((2, 8, 12, 4), (2, 77, 48)))
    control = RNG.random((2, 32, 48, 6), np.float32)
    down, mid = jax.jit(pipe.controlnet.apply)(
        {"params": params["controlnet"]}, latents, 10, context, control, (0.7, 1.5)
    )
    with torch.no_grad():
        expected_down, expected_mid = theirs(
            nchw(latents), 10, torch.from_numpy(context), [nchw(control[..., :3]), nchw(control[..., 3:])],
            [0.7, 1.5], return_dict=False,
        )  # fmt: skip
    for found, expected in zip((*down, mid), (*expected_down, expected_mid), strict=True):
        assert relative_error(found, nhwc(expected)) < 1e-4

    gap_jax.save_pipeline(pipe, params, tmp_path / "saved")
    again = MultiControlNetModel.from_pretrained(str(tmp_path / "saved" / "controlnet"))
    for old, new in zip(theirs.nets, again.nets, strict=True):
        for name, value in old.state_dict().items():
            torch.testing.assert_close(new.state_dict()[name], value, msg=name)
    loaded, loaded_params = gap_jax.load_pipeline(tmp_path / "saved")
    assert loaded == pipe
    jax.tree.map(np.testing.assert_array_equal, loaded_params["controlnet"], params["controlnet"])
    assert diffusers.DiffusionPipeline.load_config(tmp_path / "saved")["controlnet"][1] == (
        "MultiControlNetModel"
    )


def test_conditions_that_do_not_fit_the_controlnets_are_refused(models, two):
    sd15 = models("sd15")
    pipe, params = gap_jax.add_controlnet(sd15.pipe, sd15.params, [sd15.folder / "controlnet", two[0]])
    batch = {"classes": np.zeros((2, 32, 32, 1), int)}
    keys, context = jax.random.split(jax.random.key(0), 2), np.zeros((1, 77, 48), np.float32)

    def draw(*conditions, **options):
        alignment = gap_jax.controlnet(*conditions, **options)
        generate(pipe, params, context, None, batch, keys, alignment, Sampling(num_steps=2))

    def see(batch):
        return gap_jax.class_condition(batch["classes"])

    with pytest.raises(
        ValueError, match=r"shape \[2, 32, 32, 6\], found \[2, 32, 32, 3\]: the pipeline has 2 Co"
    ):
        draw(see)
    with pytest.raises(ValueError, match="a tuple of as many; found 3 numbers for 2"):
        draw(see, see, control_scale=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="must name a ControlNet or several, found none"):
        gap_jax.add_controlnet(sd15.pipe, sd15.params, [])
