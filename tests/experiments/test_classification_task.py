"""The task of classification: the rows that classifiers see, pasting, and fine-tuning as ALIA does it."""

import jax
import numpy as np
import optax
import pytest
import torch
from flax.traverse_util import flatten_dict

from gap_jax.closed_loop.command import parse
from gap_jax.data.masked.waterbirds import GROUPS
from gap_jax.experiments.classification.task import classification_task, classifier, cropped_rows
from gap_jax.experiments.iwildcam.__main__ import EXPERIMENT as IWILDCAM
from gap_jax.experiments.iwildcam.worlds import rows_to_test, target_rows
from gap_jax.experiments.waterbirds.settings import SmallBirds
from gap_jax.experiments.waterbirds.worlds import SHARED, build_small
from gap_jax.stages.classifier_tuning import masked_optimizer
from gap_jax.stages.finetune import finetune
from gap_jax.tasks.classification import uniform_cross_entropy, weighted_cross_entropy
from gap_jax.weights.classifier import load_classifier
from tests.torch_references.classifiers import CLASSES, torchvision
from tests.torch_references.folders import nchw


@pytest.mark.parametrize(("height", "first", "end"), [(384, 8, 350), (448, 10, 410), (512, 11, 468)])
def test_iwildcams_classifiers_see_the_rows_that_the_authors_cut_out(height, first, end):
    crop = parse(IWILDCAM, ["--preset", "paper"]).world.crop
    top, count = (
        int(10 * height / 448),
        int(400 * height / 448),
    )  # torchvision's crop(image, top, 0, count, …)
    assert (top, top + count) == (first, end)
    assert cropped_rows(crop, height) == slice(first, end)


def test_fine_tuning_is_that_of_torch_with_batch_norm_in_training_mode(tmp_path):
    """Two updates on one batch; ALIA also calls `train()` where only the last layer learns."""
    path, random = tmp_path / "resnet.pth", np.random.default_rng(0)
    torch.save(torchvision("resnet").state_dict(), path)
    images, labels = random.random((4, 96, 96, 3), np.float32), np.array([0, 3, 2, 2])
    weights = np.array([1.5, 1, 0.5, 2, 1], np.float32)
    network = classifier(str(path), 96, "last layer", batch_norm="training")
    batch = {"image": images, "label": labels}
    source = [{name: array[i] for name, array in batch.items()} for i in range(4)]
    sgd = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.01, momentum=0.9))
    tuned = finetune(
        network.predict,
        network.params,
        weighted_cross_entropy(weights),
        source,
        lambda example, random: example,
        masked_optimizer(sgd, network.trainable),
        {"clean": batch},
        training=network.training,
        steps=2,
        images_per_step=4,
        seed=0,
        folder=tmp_path / "run",
        config={},
    )
    theirs = torchvision("resnet").train()
    optimizer = torch.optim.SGD(theirs.fc.parameters(), 0.01, momentum=0.9, weight_decay=0.1)
    criterion = torch.nn.CrossEntropyLoss(torch.from_numpy(weights), reduction="none")
    for _ in range(2):
        optimizer.zero_grad()
        criterion(theirs(nchw(images)), torch.from_numpy(labels)).mean().backward()
        optimizer.step()
    torch.save(theirs.state_dict(), path)
    expected = flatten_dict(load_classifier(path)[1])
    for name, value in flatten_dict(jax.device_get(tuned)).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-3, atol=1e-4, err_msg=str(name))
    assert network.predict(network.params, images[:1]).shape == (1, CLASSES)
    assert classifier(str(path), 96, "last layer").training is None


def test_kept_pixels_are_pasted_into_all_images_that_are_trained_on():
    task = classification_task(("a", "b"), uniform_cross_entropy, (), paste=False)
    keep = np.zeros((1, 4, 4, 1), bool)
    keep[:, 1:3] = True
    batch = {"image": np.full((1, 4, 4, 3), 0.25, np.float32), "keep": keep}
    generated = np.ones((1, 4, 4, 3), np.float32)
    optimised_on = task.align(1.0).finish(generated, batch)
    trained_on = task.generation_align(0.5).finish(generated, batch)
    np.testing.assert_array_equal(optimised_on, generated)
    np.testing.assert_array_equal(trained_on, np.where(keep, 0.25, 1.0).repeat(3, -1))
    assert task.generation_align(0.5).strength == 0.5


def test_half_of_each_cameras_nights_are_tested():
    """The numbers are those of the authors' table: there are 64 and 67 pictures at night."""
    sizes = {
        "camera 287, day": 235,
        "camera 287, night": 64,
        "camera 287, at other hours": 193,
        "camera 288, day": 7478,
        "camera 288, night": 67,
        "camera 288, at other hours": 446,
    }
    ends = np.cumsum(list(sizes.values()))
    times = {name: np.arange(end - sizes[name], end) for name, end in zip(sizes, ends, strict=True)}
    shown = target_rows(times, 64, tested_share=0.5)
    assert {name: len(rows) for name, rows in shown.items()} == {
        "camera 287, day": 64,
        "camera 287, night": 32,
        "camera 288, day": 64,
        "camera 288, night": 33,
    }
    tested = rows_to_test(times, shown, 9000)
    counts = {name: len(rows) for name, rows in tested.items()}
    assert counts["camera 287, night"] == 32 and counts["camera 288, night"] == 34
    for name, rows in times.items():
        both = np.concatenate([shown.get(name, rows[:0]), tested[name]])
        np.testing.assert_array_equal(np.sort(both), rows)
    few = rows_to_test(times, shown, 100)
    assert {name: len(rows) for name, rows in few.items()}["camera 288, day"] == 90
    assert min(map(len, few.values())) == 1 and sum(map(len, few.values())) <= 106


def test_both_classes_of_birds_share_their_guidance_unless_told_otherwise():
    shared = build_small(SmallBirds(original=4, target_images=8), held_out=1)
    (target,) = shared.targets.values()
    assert list(shared.targets) == [SHARED] and target.subset is None and len(target.images) == 8
    lacking = build_small(SmallBirds(original=4, target_images=2, guidance="missing group"), held_out=1)
    assert {name: target.subset for name, target in lacking.targets.items()} == {
        "waterbird on land": "waterbird",
        "landbird on water": "landbird",
    }
    assert set(lacking.targets) < set(GROUPS)
    own = {image.tobytes() for image in lacking.targets["waterbird on land"].images}
    assert not own & {image.tobytes() for image in lacking.targets["landbird on water"].images}
