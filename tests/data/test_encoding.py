"""The kinds of arrays that data sets keep."""

import numpy as np
import pytest

from gap_jax.data.encoding import as_arrays, kind_of


def test_an_array_whose_name_no_folder_can_have_is_refused():
    with pytest.raises(ValueError, match=r"the field '\.\./parts' must be renamed or left out"):
        kind_of("../parts", np.zeros((4, 4, 1), np.float32))


def test_integers_beyond_32_bits_are_read_as_they_are():
    found = as_arrays({"time": np.int64(20261126180000), "label": np.int64(3), "uid": np.uint64(2**64 - 1)})
    assert found["time"] == 20261126180000 and found["uid"] == 2**64 - 1
    assert found["label"].dtype == np.int32 and found["label"] == 3


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("parts", np.full((2, 2, 1), 3, np.uint8), "parts must have the values 0 and 255 of a mask, found 3"),
        ("normals", np.full((2, 2, 3), 128, np.uint8), "normals must have the values 0 and 255 .*found 128"),
        ("depth", np.ones((2, 2, 1), np.float32), "stored depth must be uint16, 0 to 65535, found float32"),
        ("image", np.ones((2, 2, 3), np.float32), "stored image must be uint8, 0 to 255, found float32"),
    ],
)
def test_a_stored_array_that_is_no_mask_image_or_depth_is_refused(name, array, message):
    with pytest.raises(ValueError, match=message):
        as_arrays({name: array})
