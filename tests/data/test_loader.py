import numpy as np
import pytest

from gap_jax.data.loader import Batches, stack

SOURCE = [{"number": i} for i in range(10)]


def transform(example, random):
    return {"number": np.array(example["number"]), "drawn": np.array(random.random())}


def rows_of(batches, steps, rows=slice(None)):
    rows = slice(*rows.indices(batches.size))
    return list(batches(0, steps, rows))


def test_every_epoch_has_every_example_once_in_another_order():
    numbers = [batch["number"] for batch in rows_of(Batches(SOURCE, transform, size=5, seed=0), 4)]
    first, second = np.concatenate(numbers[:2]), np.concatenate(numbers[2:])
    assert sorted(first) == sorted(second) == list(range(10))
    assert list(first) != list(second)


def test_processes_see_their_rows_of_the_same_batches():
    batches = Batches(SOURCE, transform, size=4, seed=3)
    whole = rows_of(batches, 5)
    halves = rows_of(batches, 5, slice(0, 2)), rows_of(batches, 5, slice(2, 4))
    for step, batch in enumerate(whole):
        for name in ("number", "drawn", "row"):
            joined = np.concatenate([half[step][name] for half in halves])
            np.testing.assert_array_equal(joined, batch[name])


def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one():
    batches = Batches(SOURCE, transform, size=3, seed=1)
    whole, resumed = rows_of(batches, 9), list(batches(6, 9, slice(0, 3)))
    assert len(resumed) == 3
    for expected, batch in zip(whole[6:], resumed, strict=True):
        for name, values in expected.items():
            np.testing.assert_array_equal(batch[name], values)


def test_rows_are_numbered_through_the_run():
    batches = rows_of(Batches(SOURCE, transform, size=3, seed=0), 3)
    np.testing.assert_array_equal(np.concatenate([batch["row"] for batch in batches]), np.arange(9))


def test_seeds_differ():
    one, other = (rows_of(Batches(SOURCE, transform, size=10, seed=seed), 1)[0] for seed in (0, 1))
    assert list(one["number"]) != list(other["number"])
    assert not np.isin(one["drawn"], other["drawn"]).any()


def test_an_empty_source_is_refused():
    with pytest.raises(ValueError, match="the data set has no examples: check its folder and its split"):
        Batches([], transform, size=1, seed=0)


BOXES = np.zeros((2, 4), np.float32)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"boxes": BOXES[:1]}, r"boxes must have one shape .*found \[1, 4\] and \[2, 4\]: fill it up"),
        ({"boxes": np.array("none")}, r"boxes must have one shape .*found \[2, 4\] and a string"),
        ({}, "all examples must have the same fields, but some lack boxes"),
        ({"boxes": BOXES, "age": 3}, "all examples must have the same fields, but some lack age"),
    ],
)
def test_examples_that_make_no_batch_are_refused_by_the_field(second, message):
    with pytest.raises(ValueError, match=message):
        stack([{"boxes": BOXES}, second])
