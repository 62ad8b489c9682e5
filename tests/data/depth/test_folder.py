import json
from functools import partial

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from gap_jax.data.depth.dataset import DepthFolder
from gap_jax.data.depth.folder import DepthFolderLayout
from gap_jax.data.depth.omnidata import OmnidataLayout
from gap_jax.data.depth.read import read_depth_example
from gap_jax.data.files import Fault
from gap_jax.data.generated import write_chunk, write_images
from gap_jax.data.image_folder import ImageFolder
from tests.data.depth_files import SIDE, draw, save

undivided = partial(DepthFolderLayout, validation=0, test=0)


@pytest.fixture
def root(tmp_path):
    """Write two images, one in a subfolder, with depth in a PNG file and an NPY file (metres); no masks."""
    folder = tmp_path / "mine"
    for i, (name, suffix) in enumerate((("a", ".png"), ("more/b", ".jpg"))):
        save(folder / f"rgb/{name}{suffix}", draw(i).image)
    save(folder / "depth/a.png", draw(0).depth)
    (folder / "depth/more").mkdir()
    np.save(folder / "depth/more/b.npy", metres())
    return folder


def metres():
    depth = np.random.default_rng(0).uniform(0.5, 12, (SIDE, SIDE)).astype(np.float32)
    depth[0], depth[1], depth[2], depth[3] = np.nan, np.inf, 0, -1
    return depth


def examples(layout, root):
    return {files.id: files for files in layout.find(root).splits["train"]}


def test_files_of_one_name_are_an_example(root):
    inventory = undivided().find(root)
    assert [example.id for example in inventory.splits["train"]] == ["a", "more/b"] and not inventory.faults
    assert inventory.splits["train"][1].depth == str(root / "depth/more/b.npy")
    save(root / "rgb/c.png", draw(2).image)
    np.save(root / "depth/d.npy", metres())
    inventory = undivided().find(root)
    assert [str(fault) for fault in inventory.faults] == [
        f"{root / 'rgb/c.png'} has no depth",
        f"{root / 'depth/d.npy'} has no image",
    ]


def test_png_depth_is_divided_by_65535_and_0_is_invalid(root):
    raw = draw(0).depth
    raw[5:9] = 0
    save(root / "depth/a.png", raw)
    example = read_depth_example(examples(undivided(), root)["a"], undivided().decode, SIDE)
    np.testing.assert_array_equal(example.mask[..., 0], raw > 0)
    np.testing.assert_allclose(example.depth[..., 0], raw / 65535, atol=1e-7)


def test_npy_depth_is_divided_by_far_and_only_positive_finite_values_are_valid(root):
    layout = undivided(far=10.0)
    example = read_depth_example(examples(layout, root)["more/b"], layout.decode, SIDE)
    raw = metres()
    valid = np.arange(SIDE)[:, None] > 3
    np.testing.assert_array_equal(example.mask[..., 0], np.broadcast_to(valid, raw.shape))
    np.testing.assert_allclose(example.depth[4:, :, 0], np.minimum(raw[4:] / 10, 1), atol=1e-6)


def test_millimetres_for_a_far_in_metres_are_an_error(root):
    """All of them would be at the far end: a model would learn nothing from the map."""
    save(root / "depth/a.png", np.uint16(np.random.default_rng(0).uniform(500, 12_000, (SIDE, SIDE))))
    layout = undivided(far=10.0)
    with pytest.raises(
        Fault, match=r"a.png holds no depth below `far`, 10; its least value is 5\d\d: give `far`"
    ):
        read_depth_example(examples(layout, root)["a"], layout.decode, SIDE)
    layout = undivided(far=10_000.0)
    depth = read_depth_example(examples(layout, root)["a"], layout.decode, SIDE).depth
    assert depth.min() < 0.06 and (depth < 1).mean() > 0.7


def test_metres_without_far_are_an_error(root):
    with pytest.raises(
        Fault, match=r"b.npy holds depth above 1.0: set `far` to the value at which depth is 1"
    ):
        read_depth_example(examples(undivided(), root)["more/b"], undivided().decode, SIDE)


@pytest.mark.parametrize("far", [0, -1.0, float("nan")])
def test_far_is_positive(far):
    for layout in (undivided, OmnidataLayout):
        with pytest.raises(ValueError, match="far must be above 0; found"):
            layout(far=far)


def test_all_images_or_none_have_masks(root):
    save(root / "mask/a.png", draw(0).mask)
    inventory = undivided().find(root)
    assert [str(fault) for fault in inventory.faults] == [f"{root / 'rgb/more/b.jpg'} has no mask"]
    truth = read_depth_example(inventory.splits["train"][0], undivided().decode, SIDE)
    np.testing.assert_array_equal(truth.mask[..., 0], draw(0).mask)


def test_the_prepared_data_set_has_what_the_files_hold(root, tmp_path):
    layout = undivided(far=10_000)
    np.save(root / "depth/more/b.npy", draw(1).depth)
    builder = DepthFolder.prepared(layout, root, tmp_path / "data", 16)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [builder.name]
    source = tfds.builder_from_directory(builder.data_dir).as_data_source("train")
    assert {example["file"].decode() for example in source} == {"rgb/a.png", "rgb/more/b.jpg"}
    for example in source:
        truth = read_depth_example(examples(layout, root)[example["id"].decode()], layout.decode, 16)
        np.testing.assert_array_equal(example["image"], truth.image)
        np.testing.assert_allclose(example["depth"] / 65535, truth.depth, atol=1e-5)
        np.testing.assert_array_equal(example["mask"] > 0, truth.mask)


def test_generated_images_can_be_read_like_ones_own(tmp_path):
    truths = [draw(i) for i in range(2)]
    arrays = {
        "image": np.stack([truth.image for truth in truths]),
        "depth": np.stack([truth.depth[..., None] / 65535 for truth in truths]),
        "mask": np.stack([truth.mask[..., None] for truth in truths]),
        "text": np.array(["a room"] * 2),
        "dropped": np.array([""] * 2),
    }
    write_chunk(tmp_path / "chunks", "0", arrays)
    write_images(tmp_path / "chunks", tmp_path / "images")
    folder = tmp_path / "images" / "train"
    captioned = ImageFolder(folder, SIDE)
    for i, (name, files) in enumerate(examples(undivided(), folder).items()):
        assert name == f"{i:06d}.png"
        example, other = read_depth_example(files, undivided().decode, SIDE), captioned[i]
        for mask in (example.mask, other["mask"] > 0):
            np.testing.assert_array_equal(mask[..., 0], truths[i].mask)
        np.testing.assert_allclose(example.depth[..., 0], truths[i].mask * truths[i].depth / 65535, atol=1e-6)
        np.testing.assert_array_equal(other["depth"][..., 0], truths[i].mask * truths[i].depth)


def test_metadata_names_the_files_of_an_example(root):
    lines = [{"file_name": "rgb/a.png", "depth_file_name": "depth/a.png"}]
    lines += [{"file_name": "rgb/more/b.jpg", "depth_file_name": "depth/none.npy"}]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    inventory = undivided().find(root)
    assert [example.id for example in inventory.splits["train"]] == ["rgb/a.png"]
    assert [str(fault) for fault in inventory.faults] == [f"{root / 'rgb/more/b.jpg'} has no depth"]
    lines = [line | {"depth_file_name": "depth/a.png"} for line in lines]
    save(root / "mask.png", draw(0).mask)
    lines[1] |= {"mask_file_name": "mask.png"}
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [str(fault) for fault in undivided().find(root).faults] == [f"{root / 'rgb/a.png'} has no mask"]
    (root / "metadata.jsonl").write_text('{"file_name": "rgb/a.png"}')
    with pytest.raises(ValueError, match=r"no image has its depth"):
        undivided().find(root).check_faults(0.01)
    (fault,) = undivided().find(root).faults
    assert "metadata.jsonl:1 must be a JSON object with a string 'depth_file_name'" in str(fault)


def test_bad_folders_are_named(root, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"empty/rgb is missing: .*empty must hold the folders rgb and depth"
    ):
        undivided().find(tmp_path / "empty")
    save(root / "rgb/a.webp", draw(0).image)
    (fault,) = undivided().find(root).faults
    assert str(fault) == f"{root / 'rgb/a.webp'} has the same name as another file"
    for name in ("a.webp", "a.png", "more/b.jpg"):
        (root / "rgb" / name).unlink()
    with pytest.raises(
        ValueError,
        match=r"no image has its depth; .*rgb holds 0 files .*; .*depth holds 2 files .*such as a.png",
    ):
        undivided().find(root).check_faults(0.01)


def test_bad_files_are_named(root):
    layout = undivided(far=10.0)
    one, other = examples(layout, root).values()
    for pixels, message in (
        (metres()[:8], r"b.npy must be an NPY file of numbers of 24x24 pixels, found 24x8, float32"),
        (metres() > 1, r"b.npy must be an NPY file of numbers of 24x24 pixels, found 24x24, bool"),
        (np.zeros((SIDE, SIDE), np.float32), r"b.npy has no valid pixel"),
        (np.array([None]), r"b.npy cannot be read as an NPY file of numbers"),
    ):
        np.save(other.depth, pixels)
        with pytest.raises(Fault, match=message):
            read_depth_example(other, layout.decode, SIDE)
    np.save(other.depth, metres()[..., None])
    assert read_depth_example(other, layout.decode, SIDE).mask.any()
    content = (root / "depth/more/b.npy").read_bytes()
    (root / "depth/more/b.npy").write_bytes(content[:200])
    with pytest.raises(Fault, match=r"b.npy cannot be read as an NPY file of numbers"):
        read_depth_example(other, layout.decode, SIDE)
    Image.new("L", (SIDE, SIDE), 3).save(one.depth)
    with pytest.raises(Fault, match=r"a.png must be a 16-bit PNG of 24x24 pixels, found 24x24, mode L"):
        read_depth_example(one, layout.decode, SIDE)


def test_linked_folders_and_upper_case_suffixes_are_read_and_hidden_files_are_not(root, tmp_path):
    for folder in ("rgb", "depth"):
        (root / folder / "more").rename(tmp_path / f"more_{folder}")
        (root / folder / "more").symlink_to(tmp_path / f"more_{folder}")
        (root / folder / "a.png").rename(root / folder / "a.PNG")
        save(root / folder / "._a.png", draw(3).image)
        save(root / folder / ".ipynb_checkpoints/a.png", draw(3).image)
    inventory = undivided().find(root)
    inventory.check_faults(0)
    assert [paths.id for paths in inventory.splits["train"]] == ["a", "more/b"]
    assert f"passed over 2 in {root / 'rgb'}, each hidden: ._a.png, .ipynb_checkpoints" in inventory.notes


def test_masks_elsewhere_are_told(root):
    save(root / "mask/mask/a.png", draw(0).mask)
    with pytest.raises(ValueError, match="no image has its depth and its mask") as error:
        undivided().find(root).check_faults(1)
    assert "mask holds 1 files (.png), such as mask/a.png" in str(error.value)


def test_repeated_and_missing_lines_of_metadata_are_named(root):
    line = {"file_name": "rgb/a.png", "depth_file_name": "depth/a.png"}
    other = line | {"depth_file_name": "depth/more/b.npy"}
    path = root / "metadata.jsonl"
    path.write_text("\n".join(map(json.dumps, [line, line, other])))
    inventory = undivided().find(root)
    assert [paths.depth for paths in inventory.splits["train"]] == [str(root / "depth/a.png")]
    assert [str(fault) for fault in inventory.faults] == [
        f"{path}:2 repeats another line",
        f"{root / 'rgb/a.png'} has another line in metadata.jsonl",
    ]
    assert f"1 images have no line in {path} and are not used: rgb/more/b.jpg" in inventory.notes
