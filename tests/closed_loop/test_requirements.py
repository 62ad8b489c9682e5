"""Settings that a world or the devices cannot serve are refused before anything runs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import gap_jax
from gap_jax import prompts
from gap_jax.closed_loop.arms import adversarial_arm
from gap_jax.closed_loop.programs import Programs, num_micro_batches
from gap_jax.closed_loop.requirements import check_requirements
from gap_jax.closed_loop.settings import Optimizing, SamplingSettings, Settings
from gap_jax.closed_loop.world import FixedPrompts, Generator, TargetDomain, load_others
from gap_jax.data.loader import unstack
from gap_jax.diffusion.align import Alignment, Start, first_noise
from gap_jax.experiments.depth.settings import SmallRooms
from gap_jax.experiments.depth.small_world import build
from gap_jax.small_worlds import rooms
from gap_jax.stages.guidance import FeatureStatistics

SETTINGS = Settings(
    arms=("control", "adversarial-sdedit", "guided-adversarial"), optimizing=Optimizing(batch=2)
)


@pytest.fixture(scope="module")
def world():
    return build(SmallRooms(original=2), held_out=1)


def test_a_student_is_not_iterated_on(world):
    models = dataclasses.replace(world.models, student=world.models.critic)
    assert models.learner is models.student and world.models.learner is world.models.model
    with pytest.raises(ValueError, match="a student cannot be combined with several iterations"):
        check_requirements(Settings(iterations=2), dataclasses.replace(world, models=models))


def test_guided_arms_without_targets_are_refused(world):
    world = dataclasses.replace(world, targets={})
    with pytest.raises(
        ValueError, match=r"guided-adversarial needs a target domain given as images .*; found none: give one"
    ):
        check_requirements(SETTINGS, world)
    check_requirements(dataclasses.replace(SETTINGS, arms=("control", "adversarial")), world)


@pytest.mark.parametrize("name", ["..", "a/b", "/tmp", "a\0b", "nul", ""])
def test_names_that_would_leave_their_folder_are_refused(world, name):
    target, rows = world.targets["fog"], np.arange(1)
    for kind, hostile in (
        ("target domain", dataclasses.replace(world, targets={name: target})),
        ("subset", dataclasses.replace(world, data=dataclasses.replace(world.data, subsets={name: rows}))),
        ("class", dataclasses.replace(world, task=dataclasses.replace(world.task, classes=("a", name)))),
    ):
        with pytest.raises(ValueError, match=rf"the {kind} .* must be renamed.* name of a file") as refused:
            check_requirements(SETTINGS, hostile)
        assert repr(name) in str(refused.value) and len(str(refused.value)) < 500
    classes = dataclasses.replace(world.task, classes=("depth",))
    with pytest.raises(ValueError, match=r"the class 'depth' must be renamed.*none of depth, mask, metadata"):
        check_requirements(SETTINGS, dataclasses.replace(world, task=classes))


def test_labels_that_do_not_fit_the_task_are_refused_in_every_set(world):
    wrong = {**world.data.test, "depth": world.data.test["depth"] * 255}
    for name, data in (
        ("the test set", dataclasses.replace(world.data, test=wrong)),
        ("the test set far", dataclasses.replace(world.data, domains={"far": wrong})),
        ("the validation set clean", dataclasses.replace(world.data, validation={"clean": wrong})),
        ("the training set", dataclasses.replace(world.data, original=unstack(wrong))),
    ):
        with pytest.raises(ValueError, match=rf"^{name}: image 0: depth .* must be in \[0, 1\], found"):
            check_requirements(SETTINGS, dataclasses.replace(world, data=data))


def test_two_populations_with_one_token_are_refused(world):
    fog = world.targets["fog"]
    for targets in ({"a b": fog, "a-b": fog}, {"adversarial fog": fog, "fog": fog}):
        settings = dataclasses.replace(SETTINGS, arms=("guided", "guided-adversarial"))
        with pytest.raises(ValueError, match=r"would have the same token <guided-.*-0>: rename a target"):
            check_requirements(settings, dataclasses.replace(world, targets=targets))


def test_several_models_need_an_adversarial_arm(world):
    models = dataclasses.replace(world.models, others={"critic": world.models.critic})
    world = dataclasses.replace(world, models=models)
    with pytest.raises(ValueError, match="the arms control, guided have none: add the arm adversarial"):
        check_requirements(dataclasses.replace(SETTINGS, arms=("control", "guided")), world)
    check_requirements(SETTINGS, world)
    assert adversarial_arm(("guided-adversarial", "adversarial-sdedit", "adversarial")) == "adversarial"
    assert adversarial_arm(("control", "adversarial-sdedit", "guided-adversarial")) == "guided-adversarial"


def test_two_models_of_one_name_are_refused(world):
    network = world.models.critic
    found = load_others(("runs/resnet50.pth", "org/vit-b"), lambda model: network)
    assert list(found) == ["resnet50", "vit-b"]
    for models in (("a/resnet50.pth", "b/resnet50.safetensors"), ("runs/f", "resnet50.pth")):
        name = Path(models[0]).stem
        with pytest.raises(ValueError, match=f"several models are named {name}: rename a file or a folder"):
            load_others(models, lambda model: network)


def test_baselines_that_the_world_does_not_have_are_refused(world):
    with pytest.raises(ValueError, match="this experiment has no arm cutmix"):
        check_requirements(dataclasses.replace(SETTINGS, arms=("control", "cutmix")), world)


def refuse():
    raise AssertionError("the generator was opened")


def test_the_generator_is_not_opened_before_all_else_is_checked(world, tmp_path):
    def change(settings, **fields):
        changed = dataclasses.replace(world, generator=Generator(refuse, refuse), **fields)
        return lambda: check_requirements(dataclasses.replace(SETTINGS, **settings), changed)

    fog = dataclasses.replace(world.targets["fog"], sources=np.array([10_000]))
    (tmp_path / "prompts.txt").write_text("a room\na {subset} room")
    for check, error, why in (
        (change({"sampling": SamplingSettings(size=128)}), ValueError, "at 128x128 pixels"),
        (change({"arms": ("guided",)}, targets={"fog": fog}), ValueError, "no original image of .* 'fog'"),
        (
            change({"arms": ("agnostic",)}, prompts=FixedPrompts(agnostic="a {subset}")),
            ValueError,
            "the data has no subsets",
        ),
        (
            change({"arms": ("written",), "written": tmp_path / "prompts.txt"}),
            ValueError,
            r"'a \{subset\} room' has \{subset\}, but the data has no subsets",
        ),
        (change({}), AssertionError, "the generator was opened"),
    ):
        with pytest.raises(error, match=why):
            check()


def unlike_the_generator(world, tmp_path):
    """Worlds and settings that do not fit a generator, by what the error says."""
    width = world.generator.pipe.text_encoder.hidden_size
    for name, shape in (("other", (3, width + 1)), ("short", (2, width)), ("single", (1, width))):
        prompts.save(tmp_path / f"{name}.safetensors", np.zeros(shape, np.float32))

    def change(settings=SETTINGS, **fields):
        return settings, dataclasses.replace(world, **fields)

    def task(**fields):
        return change(task=dataclasses.replace(world.task, **fields))

    def optimizing(**fields):
        optimizing = dataclasses.replace(SETTINGS.optimizing, **fields)
        return change(dataclasses.replace(SETTINGS, optimizing=optimizing))

    def target(**fields):
        return {"targets": {"night": TargetDomain(**fields)}}

    def features(*shape):
        return FeatureStatistics(np.zeros(shape, np.float32), None)

    small = {name: array[:, :32, :32] for name, array in world.data.test.items()}
    small["keep"] = np.ones((1, 64, 64, 1), bool)
    masked = dataclasses.replace(world.data, original=unstack(small))
    sees = rooms.condition
    guided_by_text = dataclasses.replace(SETTINGS, arms=("control", "guided-text"))
    few_steps = dataclasses.replace(
        SETTINGS, generating=dataclasses.replace(SETTINGS.generating, denoising_steps=1)
    )
    return {
        r"multiples of 4, the factor of the VAE; found 33x33": change(
            dataclasses.replace(SETTINGS, sampling=SamplingSettings(size=33))
        ),
        r"strength 0.6 leaves none of 1 steps": change(few_steps),
        r"control must have shape \[1, 64, 64, 3\], found \[1, 64, 64, 6\]: the pipeline has 1 Contr": task(
            align=lambda strength: gap_jax.controlnet(sees, sees, strength=strength)
        ),
        r"control_scale must be a number or, with several .* found 2 numbers for 1": task(
            align=lambda strength: gap_jax.controlnet(sees, control_scale=(1.0, 0.5))
        ),
        r"reads the array 'classes', which the examples do not have; they have image, depth, mask": task(
            align=lambda strength: gap_jax.controlnet(lambda batch: gap_jax.class_condition(batch["classes"]))
        ),
        r"from the original ones: the pipeline has a ControlNet: give its condition": task(
            generation_align=lambda strength: no_condition
        ),
        r"keep must have shape \[1, 32, 32, 1\], found \[1, 64, 64, 1\]: a mask has the size": change(
            data=masked, task=dataclasses.replace(world.task, generation_align=gap_jax.inpaint)
        ),
        r"domain night: the mean .* must have shape \[128\], found \[1024\]: this CLIP gives": change(
            **target(images=features(1024))
        ),
        r"night: the mean of .* must have shape \[32, 96\], found \[77, 96\]: this text enc": change(
            guided_by_text, **target(text=features(77, 96))
        ),
        r"night: images of 63x63 pixels: both sides must be divisible by 4": change(
            dataclasses.replace(SETTINGS, arms=("control", "guided-inversion")),
            **target(images=np.zeros((2, 63, 63, 3), np.float32)),
        ),
        r"'a b' must be a single token of the vocabulary": optimizing(start="a b"),
        rf"other.safetensors must have {width} numbers .* found {width + 1}: they are of another": optimizing(
            earlier=(tmp_path / "other.safetensors",)
        ),
        r"short.safetensors must have 3 placeholders .* found 2": optimizing(
            earlier=(tmp_path / "short.safetensors",)
        ),
        r"single.safetensors must have two embeddings or more, .* no covariance; found 1": optimizing(
            earlier=(tmp_path / "single.safetensors",), earlier_use="covariance"
        ),
        r"missing.safetensors": optimizing(earlier=(tmp_path / "missing.safetensors",)),
    }


def no_condition_start(pipe, params, batch, keys, sampling):
    return Start(first_noise(pipe, batch["image"], keys))


no_condition = Alignment(no_condition_start)


def test_what_does_not_fit_the_generator_is_told_before_its_weights_are_loaded(world, tmp_path):
    pipe, clip = world.generator.pipe, world.generator.clip
    unread = Generator(lambda: (pipe, refuse), lambda: (clip, refuse))
    for why, (settings, other) in unlike_the_generator(world, tmp_path).items():
        with pytest.raises((ValueError, FileNotFoundError), match=why) as error:
            Programs(settings, dataclasses.replace(other, generator=unread))
        assert len(str(error.value)) < 500
    with pytest.raises(AssertionError, match="the generator was opened"):
        Programs(SETTINGS, dataclasses.replace(world, generator=unread))


def test_images_are_not_generated_larger_than_the_original_ones(world):
    def sized(size):
        return dataclasses.replace(SETTINGS, sampling=SamplingSettings(size=size))

    why = r"generated at 128x128 pixels .* have 64x64: prepare the data at 128 pixels or more"
    with pytest.raises(ValueError, match=why):
        check_requirements(sized(128), world)
    with pytest.raises(ValueError, match=r"multiples of \d+, the factor of the VAE; found 33x33"):
        check_requirements(sized(33), world)
    odd = [{name: array[:, :33] for name, array in world.data.original[0].items()}]
    of_odd = dataclasses.replace(world, data=dataclasses.replace(world.data, original=odd))
    with pytest.raises(ValueError, match=r"multiples of \d+, the factor of the VAE; found 33x64"):
        check_requirements(sized(None), of_odd)
    check_requirements(sized(64), world)
    check_requirements(sized(32), world)


@pytest.mark.parametrize(("images", "at_most", "count"), [(8, 8, 1), (8, 3, 4), (12, 8, 2), (5, 2, 5)])
def test_a_batch_is_split_into_the_fewest_equal_micro_batches_that_fit(images, at_most, count):
    assert num_micro_batches(images, at_most) == count
