"""Checkpoints whose files were cut off, changed or lost on the disk: noticed, never restored as others."""

import os
import re
import shutil
import warnings

import numpy as np
import pytest

from gap_jax.checkpoint import Checkpoints
from tests.checkpoints.test_checkpoint import assert_identical, damage, names, state

pytestmark = pytest.mark.filterwarnings(
    "error::pytest.PytestUnraisableExceptionWarning"  # a trace on stderr
)


def test_damage_to_any_file_is_noticed_or_harmless(tmp_path):
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
    shutil.copytree(tmp_path / "2", tmp_path / "whole")
    noticed = 0
    for path in [path for path in (tmp_path / "whole").rglob("*") if path.is_file()]:
        shutil.rmtree(tmp_path / "2")
        shutil.copytree(tmp_path / "whole", tmp_path / "2")
        os.truncate(tmp_path / "2" / path.relative_to(tmp_path / "whole"), path.stat().st_size // 2)
        with warnings.catch_warnings(record=True) as warned:
            step, restored = checkpoints.restore(state())
        noticed += step == 1
        assert ["2 is damaged, skipped" in str(warning.message) for warning in warned] == [True] * (step == 1)
        assert_identical(restored, state(step))
    assert noticed >= 3


@pytest.mark.parametrize("keep", [1, 2])
def test_bytes_that_changed_on_the_disk_are_noticed_or_harmless(tmp_path, keep):
    """Without a digest, Orbax restores changed bytes without a word."""
    checkpoints = Checkpoints(tmp_path, {}, keep)
    checkpoints.save(1, state(1))
    checkpoints.save(2, state(2))
    random, noticed = np.random.default_rng(0), 0
    for path in [path for path in (tmp_path / "2").rglob("*") if path.is_file() and path.stat().st_size]:
        whole = path.read_bytes()
        changed = np.frombuffer(whole, np.uint8).copy()
        places = random.integers(0, len(changed), 64)
        changed[places] ^= random.integers(1, 256, 64, np.uint8)
        path.write_bytes(changed.tobytes())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                step, restored = checkpoints.restore(state())
        except ValueError as error:
            assert keep == 1 and re.search("2 is damaged, and there is no earlier one.* Delete", str(error))
            noticed += 1
        else:
            noticed += step == 1
            assert_identical(restored, state(step))
        path.write_bytes(whole)
    assert noticed >= 3
    assert_identical(checkpoints.restore(state())[1], state(2))


def test_a_damaged_checkpoint_is_skipped_and_does_not_prevent_later_saves(tmp_path):
    checkpoints = Checkpoints(tmp_path, {}, keep=2)
    for step in (10, 20, 30):
        checkpoints.save(step, state(step))
    damage(tmp_path / "30")
    with pytest.warns(
        UserWarning, match=rf"checkpoint {re.escape(str(tmp_path))}/30 is damaged, skipped"
    ) as warned:
        step, restored = checkpoints.restore(state())
    assert step == 20 and len(warned) == 1
    assert_identical(restored, state(20))
    checkpoints.save(25, state(25))
    assert names(tmp_path) == ["20", "25", "config.json"]
    damage(tmp_path / "25")
    checkpoints.save(25, state(26))
    assert_identical(checkpoints.restore(state())[1], state(26))


def test_if_all_checkpoints_are_damaged_none_is_restored(tmp_path):
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(1, state())
    damage(tmp_path / "1")
    (tmp_path / "2").mkdir()
    with pytest.warns(UserWarning, match="damaged") as warned:
        assert checkpoints.restore(state()) is None
    assert len(warned) == 2
