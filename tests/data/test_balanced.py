import numpy as np
import pytest

from gap_jax.data.augment import Balanced


def test_balanced_groups_are_complete_and_equally_frequent():
    groups = [7] * 10 + [0] * 3 + [3]
    source = [{"group": np.int32(group), "label": i % 2, "number": i} for i, group in enumerate(groups)]
    balanced = Balanced(source)
    examples = [balanced[i] for i in range(len(balanced))]
    assert np.unique_counts([int(example["group"]) for example in examples]).counts.tolist() == [10, 10, 10]
    often = np.bincount([example["number"] for example in examples])
    assert often.tolist() == [1] * 10 + [4, 3, 3] + [10]
    by_label = Balanced(source[9:], "label")
    assert sum(by_label[i]["label"] for i in range(len(by_label))) == len(by_label) / 2 == 3
    with pytest.raises(IndexError):
        balanced[len(balanced)]


@pytest.mark.parametrize("value", [1.0, np.float32(1), "a", np.array([1, 2]), None])
def test_balanced_refuses_a_field_that_is_no_integer(value):
    with pytest.raises(ValueError, match="example 1 must have an integer 'group'"):
        Balanced([{"group": 1}, {"group": value}])


def test_balanced_refuses_a_missing_field_and_no_examples():
    with pytest.raises(ValueError, match=r"example 0 must have an integer 'place'.*\['group'\]"):
        Balanced([{"group": 1}], "place")
    with pytest.raises(ValueError, match="the data set has no examples"):
        Balanced([])
