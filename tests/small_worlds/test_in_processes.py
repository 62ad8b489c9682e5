"""Examples from many processes: all of them, in order."""

import pickle

import pytest

from gap_jax.small_worlds.in_processes import FEW, make_in_processes


@pytest.mark.parametrize("count", [0, 1, FEW, 3 * FEW + 5])
def test_examples_come_with_their_numbers_in_order(count):
    assert list(make_in_processes(list, count)) == [(i, i) for i in range(count)]


def test_many_examples_are_made_in_other_processes():
    with pytest.raises((AttributeError, pickle.PicklingError), match="local object"):  # by version
        list(make_in_processes(lambda numbers: list(numbers), FEW + 1))
