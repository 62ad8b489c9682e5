"""Real photographs through prediction, corruption and pictures; a stereo pair with depth, if there is one."""

import jax
import matplotlib.cbook
import numpy as np
import pytest
from PIL import Image

from gap_jax.closed_loop.world import take
from gap_jax.data.corruptions.common import CORRUPTIONS, corrupt
from gap_jax.data.corruptions.three_d import CORRUPTIONS_3D
from gap_jax.data.depth.folder import DepthFolder, DepthFolderLayout
from gap_jax.data.files import square_image
from gap_jax.data.prepared import Prepared
from gap_jax.experiments.depth_files import network
from gap_jax.experiments.depth_task import depth_task
from gap_jax.report import pictures
from gap_jax.stages.evaluate import evaluate, shifts
from gap_jax.weights.depth import load_depth
from tests.torch_depth import transformers_dpt

HEIGHT, WIDTH = 96, 64  # multiples of 32
FOCAL, BASELINE, OFFSET = 994.978, 0.193001, 31.086  # pixels, metres, pixels: of scikit-image's pair
FAR, SIDE = 10.0, 256  # metres; pixels


@pytest.fixture(params=["small", "dpt"])
def predict(request, tmp_path):
    """The small world's depth model, and a small random DPT of the published form."""
    model = "small"
    if request.param == "dpt":
        model = tmp_path / "dpt"
        transformers_dpt("hybrid").save_pretrained(model)
    module, params = load_depth(model)
    apply = jax.jit(lambda images: module.apply({"params": params}, images))
    return lambda images: np.asarray(apply(images))


@pytest.fixture
def portrait():
    """A photograph that matplotlib brings along, `[1,H,W,3]` in [0,1]."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as stream:
        image = Image.open(stream).convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    return np.asarray(image, np.float32)[None] / 255


def check_written(path, picture):
    """That the picture can be read again and shows something."""
    pictures.save(path, picture)
    written = np.asarray(Image.open(path))
    assert written.shape == (*picture.shape[:2], 3) and written.std() > 1, path
    return written


def test_a_photograph_is_predicted_corrupted_and_drawn(predict, portrait, tmp_path):
    clean = predict(portrait)
    assert clean.shape == (1, HEIGHT, WIDTH, 1) and np.isfinite(clean).all() and clean.std() > 1e-3
    np.testing.assert_array_equal(check_written(tmp_path / "photo.png", portrait[0]), 255 * portrait[0])
    check_written(tmp_path / "depth.png", pictures.depth(clean[0]))
    assert len(CORRUPTIONS) == 15
    for name in CORRUPTIONS:
        images = corrupt(portrait, name, 3, ids=[0])
        assert images.shape == portrait.shape and images.dtype == np.float32, name
        assert images.min() >= 0 and images.max() <= 1, name
        assert 0.003 < np.abs(images - portrait).mean() < 0.5, name
        depth = predict(images)
        assert depth.shape == clean.shape and np.isfinite(depth).all(), name
        assert np.abs(depth - clean).max() > 1e-4, name
        check_written(tmp_path / name / "photo.png", images[0])
        check_written(
            tmp_path / name / "error.png", pictures.error(depth[0] / clean.max(), clean[0] / clean.max())
        )


@pytest.fixture
def pair(tmp_path):
    """scikit-image's stereo pair: the left photograph, prepared with its depth, and both as they are."""
    data = pytest.importorskip("skimage.data", reason="its stereo pair needs scikit-image")
    try:
        left, right, disparity = data.stereo_motorcycle()
    except Exception as error:  # this version would download the pair
        pytest.skip(f"scikit-image's stereo pair is not here: {error}")
    root = tmp_path / "mine"
    pictures.save(root / "rgb" / "motorcycle.png", left)
    (root / "depth").mkdir()
    seen = np.isfinite(disparity)  # elsewhere infinite, which would be depth 0: not valid
    depth = np.where(seen, FOCAL * BASELINE / (disparity + OFFSET), np.nan).astype(np.float32)
    np.save(root / "depth" / "motorcycle.npy", depth)
    DepthFolder.prepared(DepthFolderLayout(far=FAR), root, tmp_path / "data", SIDE)
    return Prepared(tmp_path / "data", "train"), left, right


def test_a_stereo_pairs_depth_lies_on_its_photograph(pair):
    """Each pixel of the left photograph is found in the right one where its prepared depth says."""
    source, left, right = pair
    example = source[0]
    assert example["image"].shape == (SIDE, SIDE, 3) and 0.8 < example["mask"].mean() < 1
    other = square_image(Image.fromarray(right), SIDE).astype(np.float32) / 255
    metres = example["depth"][..., 0] * FAR
    pixels = (FOCAL * BASELINE / np.where(example["mask"][..., 0], metres, 1) - OFFSET) * SIDE / len(left)
    rows, columns = np.indices(pixels.shape)

    def difference(shift):
        found = np.round(columns - shift).astype(int)
        valid = example["mask"][..., 0] & (found >= 0)
        seen = other[rows, np.maximum(found, 0)]
        return np.abs(seen - example["image"])[valid].mean()

    assert difference(pixels) < 0.7 * min(difference(share * pixels) for share in (0, 0.8, 1.2))


def test_a_stereo_pair_goes_through_evaluation_and_pictures(pair, tmp_path):
    batch = take(pair[0], np.arange(1))
    model, task = network("small", 64), depth_task()
    sets = list(shifts(batch, {}, (3,)))
    assert len(sets) == 1 + len(CORRUPTIONS) + len(CORRUPTIONS_3D)
    found = evaluate(model.predict, {"small": model.params}, sets, {"l1": task.loss}, images_per_step=1)[
        "small"
    ]
    for shift in sets:
        assert shift.name == "clean" or np.abs(shift.batch["image"] - batch["image"]).mean() > 0.003, (
            shift.name
        )
        assert np.isfinite(found[shift.name]["l1"]), shift.name
        check_written(tmp_path / shift.name / "photo.png", shift.batch["image"][0])
    depth = check_written(tmp_path / "depth.png", pictures.depth(batch["depth"][0], batch["mask"][0]))
    assert (depth[~batch["mask"][0, ..., 0]] == 128).all()
