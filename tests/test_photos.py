"""Real photographs in prediction, corruption and pictures; also a stereo pair with depth, if installed."""

import jax
import matplotlib.cbook
import numpy as np
import pytest
from PIL import Image

from gap_jax.closed_loop.world import as_batch
from gap_jax.data.corruptions.common import CORRUPTIONS, corrupt
from gap_jax.data.corruptions.three_d import CORRUPTIONS_3D
from gap_jax.data.depth.dataset import DepthFolder
from gap_jax.data.depth.folder import DepthFolderLayout
from gap_jax.data.files import square_image
from gap_jax.data.prepared import Prepared
from gap_jax.experiments.depth.task import depth_task
from gap_jax.report import pictures
from gap_jax.stages.evaluate import CLEAN, corrupted_sets, evaluate
from gap_jax.weights.depth import load_depth
from tests.torch_references.depth import transformers_dpt

HEIGHT, WIDTH = 96, 64  # multiples of 32
FOCAL, BASELINE, OFFSET = 994.978, 0.193001, 31.086  # of scikit-image's pair, in pixels, metres and pixels
FAR, SIDE = 10.0, 256  # metres; pixels


@pytest.fixture(params=["small", "dpt"])
def predict(request, tmp_path):
    """Return the predictions of the small world's depth model or of a small random DPT."""
    model = "small"
    if request.param == "dpt":
        model = tmp_path / "dpt"
        transformers_dpt("hybrid").save_pretrained(model)
    module, params = load_depth(model)
    apply = jax.jit(lambda images: module.apply({"params": params}, images))
    return lambda images: np.asarray(apply(images))


@pytest.fixture
def portrait():
    """Return a photograph that comes with matplotlib, float32 `[1,H,W,3]` in [0,1]."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as stream:
        image = Image.open(stream).convert("RGB").resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    return np.asarray(image, np.float32)[None] / 255


def check_written(path, picture):
    """Write a picture, assert that it can be read again and is not blank, and return it."""
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
    """Return scikit-image's stereo pair: the left photograph prepared with depth, and both photographs."""
    data = pytest.importorskip("skimage.data", reason="its stereo pair needs scikit-image")
    try:
        left, right, disparity = data.stereo_motorcycle()
    except Exception as error:  # some versions would download the pair
        pytest.skip(f"scikit-image's stereo pair is not installed: {error}")
    root = tmp_path / "mine"
    pictures.save(root / "rgb" / "motorcycle.png", left)
    (root / "depth").mkdir()
    visible = np.isfinite(disparity)  # infinite where only one camera sees a point
    depth = np.where(visible, FOCAL * BASELINE / (disparity + OFFSET), np.nan).astype(np.float32)
    np.save(root / "depth" / "motorcycle.npy", depth)
    DepthFolder.prepared(DepthFolderLayout(far=FAR, validation=0, test=0), root, tmp_path / "data", SIDE)
    return Prepared(tmp_path / "data", "train"), left, right


def test_a_stereo_pairs_depth_lies_on_its_photograph(pair):
    """Each pixel of the left photograph matches the pixel of the right one that its depth predicts."""
    source, left, right = pair
    example = source[0]
    assert example["image"].shape == (SIDE, SIDE, 3) and 0.8 < example["mask"].mean() < 1
    other = square_image(Image.fromarray(right), SIDE).astype(np.float32) / 255
    metres = example["depth"][..., 0] * FAR
    pixels = (FOCAL * BASELINE / np.where(example["mask"][..., 0], metres, 1) - OFFSET) * SIDE / len(left)
    rows, columns = np.indices(pixels.shape)

    def difference(shift):
        matches = np.round(columns - shift).astype(int)
        valid = example["mask"][..., 0] & (matches >= 0)
        matched = other[rows, np.maximum(matches, 0)]
        return np.abs(matched - example["image"])[valid].mean()

    assert difference(pixels) < 0.7 * min(difference(share * pixels) for share in (0, 0.8, 1.2))


def test_a_stereo_pair_goes_through_evaluation_and_pictures(pair, tmp_path):
    batch, metrics = as_batch(pair[0]), depth_task().metrics
    module, params = load_depth("small")

    def predict(params, images):
        return module.apply({"params": params}, jax.image.resize(images, (1, 64, 64, 3), "bilinear"))

    sets = {CLEAN: batch, **dict(corrupted_sets(batch, (3,)))}
    assert len(sets) == 1 + len(CORRUPTIONS) + len(CORRUPTIONS_3D)
    results = evaluate(predict, {"small": params}, sets.items(), metrics, images_per_step=1)["small"]
    for test_set, corrupted in sets.items():
        change = np.abs(corrupted["image"] - batch["image"]).mean()
        assert test_set == CLEAN or change > 0.003, test_set
        assert all(np.isfinite(results[test_set][name]) for name in metrics), test_set
        check_written(tmp_path / test_set.kind / test_set.name / "photo.png", corrupted["image"][0])
    depth = check_written(tmp_path / "depth.png", pictures.depth(batch["depth"][0], batch["mask"][0]))
    assert (depth[~batch["mask"][0, ..., 0]] == 128).all()
