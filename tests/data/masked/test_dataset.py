import json

import numpy as np
import pytest
import tensorflow_datasets as tfds

from gap_jax.data.encoding import as_arrays
from gap_jax.data.masked.dataset import MaskedFolder
from gap_jax.data.masked.folder import MaskedFolderLayout
from tests.data.depth_files import save
from tests.data.masked_files import draw


@pytest.fixture
def root(tmp_path):
    """Write twenty images of two classes."""
    for i in range(20):
        for folder, pixels in zip(("images", "masks"), draw(i), strict=True):
            save(tmp_path / "mine" / folder / ("cat", "dog")[i % 2] / f"{i:02d}.png", pixels)
    return tmp_path / "mine"


def test_unusable_examples_are_left_out_and_listed(root, tmp_path, capsys):
    (root / "masks/cat/00.png").unlink()
    save(root / "masks/dog/01.png", draw(1).mask & False)
    with pytest.raises(ValueError, match=r"1 of 20 examples cannot be used(.|\n)*has no mask: .*cat/00.png"):
        MaskedFolder.prepared(MaskedFolderLayout(), root, tmp_path / "data", 16)
    builder = MaskedFolder.prepared(MaskedFolderLayout(), root, tmp_path / "data", 16, tolerance=0.1)
    assert "left out 1, each keeps nothing: all its pixels are 0" in capsys.readouterr().out
    again = tfds.builder_from_directory(builder.data_dir)
    assert again.info.splits.total_num_examples == 18
    assert again.info.metadata == json.loads((builder.data_path / "metadata.json").read_text())
    assert again.info.metadata == {
        "classes": ["cat", "dog"],
        "left_out": [
            f"{root / 'images/cat/00.png'} has no mask",
            f"{root / 'masks/dog/01.png'} keeps nothing: all its pixels are 0",
        ],
    }


def test_masks_are_refused_only_if_most_look_inverted(root, tmp_path):
    for i in range(9):
        save(root / "masks" / ("cat", "dog")[i % 2] / f"{i:02d}.png", ~draw(i).mask)
    MaskedFolder.prepared(MaskedFolderLayout(), root, tmp_path / "few", 16)
    for i in range(9, 12):
        save(root / "masks" / ("cat", "dog")[i % 2] / f"{i:02d}.png", ~draw(i).mask)
    with pytest.raises(ValueError, match="they look inverted"):
        MaskedFolder.prepared(MaskedFolderLayout(), root, tmp_path / "most", 16)
    MaskedFolder.prepared(MaskedFolderLayout(most_kept=0.9), root, tmp_path / "most", 16)


def test_examples_become_what_losses_and_alignments_take():
    image, mask = draw(0)
    keep = mask[..., None]
    stored = {"image": image, "keep": keep.astype(np.uint8) * 255, "label": 1, "group": 3, "id": b"one"}
    arrays = as_arrays(stored)
    np.testing.assert_allclose(arrays["image"], image / 255, atol=1e-7)
    np.testing.assert_array_equal(arrays["keep"], keep)
    types = {name: value.dtype.name for name, value in arrays.items()}
    assert types == {"image": "float32", "keep": "bool", "label": "int32", "group": "int32"}
    assert (arrays["label"], arrays["group"]) == (1, 3)
