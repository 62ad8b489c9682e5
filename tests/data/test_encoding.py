"""The kinds of arrays that data sets keep."""

import numpy as np
import pytest

from gap_jax.data.encoding import kind_of


def test_an_array_whose_name_no_folder_can_have_is_refused():
    with pytest.raises(ValueError, match=r"the field '\.\./parts' must be renamed or left out"):
        kind_of("../parts", np.zeros((4, 4, 1), np.float32))
