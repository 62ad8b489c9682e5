import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from gap_jax.data.augment import (
    AUG_MIX,
    RAND_AUGMENT,
    Balanced,
    CopyPaste,
    Operation,
    aug_mix,
    cut_mix,
    rand_augment,
    remove_foreground,
)
from gap_jax.data.corruptions.common import CORRUPTIONS
from gap_jax.data.loader import Batches
from gap_jax.small_worlds import wildlife
from gap_jax.small_worlds.wildlife import Words

PLACES = ("grass", "forest", "lake", "sea", "dirt", "savanna")
ALWAYS = ("Identity", "AutoContrast", "Equalize")  # operations without a magnitude


def _examples(*animals):
    words = [Words(animal, place) for animal, place in zip(animals, PLACES, strict=False)]
    rendered = wildlife.render(0, range(len(words)), words)
    images = rendered.image.astype(np.float32) / 255
    parts = zip(images, rendered.keep, rendered.label, strict=True)
    return [
        {"image": image, "keep": keep, "label": label, "group": np.int32(i)}
        for i, (image, keep, label) in enumerate(parts)
    ]


def _image():
    return wildlife.render(0, [4], [Words("zebra", "savanna")]).image[0].astype(np.float32) / 255


def _levels(image):
    return np.round(image * 255).astype(int)


def _frozen(example):
    for value in example.values():
        if isinstance(value, np.ndarray):
            value.flags.writeable = False
    return example


class _Sign:
    """A generator that always draws the same number."""

    def __init__(self, number):
        self.random = lambda: number


POSITIVE, NEGATIVE = _Sign(0.9), _Sign(0.1)


def _changed(name, image, magnitude, sign=POSITIVE):
    picture = Image.fromarray(_levels(image).astype(np.uint8))
    return np.asarray(RAND_AUGMENT[name](picture, magnitude / 30, sign)).astype(int)


def _strongest(name, sign=POSITIVE):
    return _changed(name, _image(), 30, sign)


@pytest.mark.parametrize("name", sorted(set(RAND_AUGMENT) - set(ALWAYS)))
def test_an_operation_changes_nothing_at_0_and_much_at_30(name):
    image = _image()
    np.testing.assert_array_equal(_changed(name, image, 0), _levels(image))
    for sign in (POSITIVE, NEGATIVE):
        assert np.abs(_strongest(name, sign) - _levels(image)).mean() > 3


def test_operations_without_a_magnitude():
    image = _image() * np.float32(0.5) + np.float32(0.1)
    np.testing.assert_array_equal(_changed("Identity", image, 30), _levels(image))
    stretched = _changed("AutoContrast", image, 0)
    assert (stretched.min((0, 1)) == 0).all() and (stretched.max((0, 1)) >= 254).all()
    even = np.linspace(0, 1, 64 * 64)[:, None]
    before, after = (np.sort(x.reshape(-1, 3), 0) for x in (image, _changed("Equalize", image, 0) / 255))
    assert np.abs(after - even).mean() < 0.03 < 0.1 < np.abs(before - even).mean()


def test_the_strongest_operations_have_closed_forms():
    image = _levels(_image())
    moved = int(150 / 331 * 64)
    for name, axis in (("TranslateX", 1), ("TranslateY", 0)):
        for sign, step, lost in ((POSITIVE, -moved, slice(64 - moved, 64)), (NEGATIVE, moved, slice(moved))):
            expected = np.roll(image, step, axis)
            np.moveaxis(expected, axis, 0)[lost] = 128
            np.testing.assert_array_equal(_strongest(name, sign), expected)
    np.testing.assert_array_equal(_strongest("Solarize", POSITIVE), 255 - image)
    np.testing.assert_array_equal(_strongest("Posterize", POSITIVE), image // 16 * 16)
    np.testing.assert_allclose(_strongest("Brightness", NEGATIVE), 0.1 * image, atol=1)
    np.testing.assert_allclose(_strongest("Brightness", POSITIVE), np.minimum(1.9 * image, 255), atol=1)
    grey = image @ (0.299, 0.587, 0.114)
    np.testing.assert_allclose(_strongest("Color", NEGATIVE), 0.1 * image + 0.9 * grey[..., None], atol=2)
    np.testing.assert_allclose(_strongest("Contrast", NEGATIVE), 0.1 * image + 0.9 * grey.mean(), atol=2)
    assert np.diff(_strongest("Sharpness", NEGATIVE), axis=0).std() < np.diff(image, axis=0).std()
    assert np.diff(_strongest("Sharpness", POSITIVE), axis=0).std() > np.diff(image, axis=0).std()


@pytest.mark.parametrize(
    ("name", "steepness"), [("ShearX", 0.3), ("ShearY", 0.3), ("Rotate", np.tan(np.pi / 6))]
)
def test_shears_and_rotations_tilt_an_edge_by_their_angle(name, steepness):
    half = np.zeros((200, 200), np.float32)
    half[:, :100] = 1
    turned = np.transpose if name == "ShearY" else np.asarray
    tilted = turned(_changed(name, np.repeat(turned(half)[..., None], 3, 2), 30)[..., 0])
    edge = [np.flatnonzero((row[:-1] > 230) & (row[1:] <= 230))[-1] for row in tilted[60:140]]
    assert abs(abs(np.polyfit(np.arange(80), edge, 1)[0]) - steepness) < 0.02


def test_posterising_rounds_bits_as_torchvision_does():
    ramp = np.repeat(np.arange(256, dtype=np.float32)[None, :, None] / 255, 3, 2)
    for magnitude in range(31):
        lost = round(4 * magnitude / 30)
        np.testing.assert_array_equal(
            _changed("Posterize", ramp, magnitude)[0, :, 0], np.arange(256) >> lost << lost
        )


def test_rand_augment_draws_all_operations_alike_and_as_many_as_asked(monkeypatch):
    drawn = []
    for name, operation in RAND_AUGMENT.items():
        spy = operation._replace(change=lambda picture, _, name=name: drawn.append(name) or picture)
        monkeypatch.setitem(RAND_AUGMENT, name, spy)
    random = np.random.default_rng(0)
    image = _image()[:16, :16]
    for _ in range(700):
        rand_augment(image, random, operations=4)
    assert len(RAND_AUGMENT) == 14 and len(drawn) == 2800
    assert all(150 < drawn.count(name) < 250 for name in RAND_AUGMENT)


def test_aug_mix_shares_nothing_with_common_corruptions():
    assert len(AUG_MIX) == 9
    assert not {name.lower() for name in AUG_MIX} & (
        {"contrast", "color", "brightness", "sharpness"} | set(CORRUPTIONS)
    )


def test_aug_mix_is_a_convex_mixture(monkeypatch):
    """Chains turn black to red, green or blue: a result's channels are weights times a share."""
    for name in list(AUG_MIX):
        monkeypatch.delitem(AUG_MIX, name)
    for i, name in enumerate("rgb"):
        colour = tuple(255 * (i == channel) for channel in range(3))
        paint = Operation(lambda picture, _, colour=colour: Image.new("RGB", picture.size, colour))
        monkeypatch.setitem(AUG_MIX, name, paint)
    random = np.random.default_rng(0)
    black = np.zeros((4, 4, 3), np.float32)
    results = np.stack([aug_mix(black, random) for _ in range(2000)])
    assert np.ptp(results, axis=(1, 2)).max() == 0
    shares = results[:, 0, 0].sum(-1)
    assert abs(shares.mean() - 1 / 2) < 0.02 and abs(shares.var() - 1 / 12) < 0.005  # Beta(1, 1)
    np.testing.assert_allclose(results[:, 0, 0].mean(0), 1 / 6, atol=0.015)
    white = np.stack([aug_mix(black + 1, random) for _ in range(50)])
    assert white.min() >= 0 and white.max() <= 1
    weights = results[:, 0, 0] / shares[:, None]
    # Dirichlet(1, 1, 1) has E[Σ w²] = 1/2, and two chains have one colour in 1 of 3 cases: 1/2 + 1/2 · 1/3
    assert abs(np.square(weights).sum(1).mean() - 2 / 3) < 0.02


def test_aug_mix_has_chains_of_its_width_and_depth_and_strengths_of_its_severity(monkeypatch):
    drawn = []
    for name in AUG_MIX:
        spy = Operation(lambda picture, value: drawn.append(value) or picture, 0, 10)
        monkeypatch.setitem(AUG_MIX, name, spy)
    random = np.random.default_rng(0)
    image = _image()[:8, :8]
    np.testing.assert_allclose(aug_mix(image, random, width=5, depth=4, severity=7), image, atol=1e-6)
    assert len(drawn) == 20
    counts = []
    for _ in range(400):
        drawn.clear()
        aug_mix(image, random, severity=7, width=1)
        counts.append(len(drawn))
        assert min(drawn) >= 0.1 and max(drawn) <= 7
    assert set(counts) == {1, 2, 3} and abs(np.mean(counts) - 2) < 0.15


def test_aug_mix_at_its_strongest_stays_an_image():
    random, image = np.random.default_rng(0), _image()
    for _ in range(40):
        augmented = aug_mix(image, random, severity=10, depth=5)
        assert augmented.dtype == np.float32 and augmented.min() >= 0 and augmented.max() <= 1


def test_cut_mix_says_whose_the_pixels_are():
    black, white = np.zeros((40, 56, 3), np.float32), np.ones((40, 56, 3), np.float32)
    transform = cut_mix([{"image": white, "label": np.int32(5)}])
    random = np.random.default_rng(0)
    shares, pixels = [], np.zeros((40, 56))
    for _ in range(1000):
        result = transform({"image": black, "label": np.int32(2), "keep": None}, random)
        assert set(result) == {"image", "label", "label_b", "lam"}
        assert (result["label"], result["label_b"]) == (2, 5)
        rows, columns = (result["image"][..., 0].any(axis) for axis in (1, 0))
        np.testing.assert_array_equal(
            result["image"], np.where(rows[:, None, None] & columns[:, None], white, 0)
        )
        assert all(np.diff(np.flatnonzero(side)).max(initial=1) == 1 for side in (rows, columns))
        assert result["lam"].dtype == np.float32 and result["lam"] == np.float32(
            np.mean(result["image"] == 0)
        )
        shares.append(result["lam"])
        pixels += result["image"][..., 0]
    assert min(shares) < 0.2 and max(shares) > 0.98
    assert pixels.min() > 0.1 * 1000 and abs(pixels[:, :28].sum() / pixels.sum() - 0.5) < 0.02


def test_the_share_of_cut_mix_is_drawn_from_its_beta_distribution():
    """With a sharply peaked distribution, half of the image is left unless the box reaches over an edge."""
    image = np.zeros((100, 100, 3), np.float32)
    transform = cut_mix([{"image": image + 1, "label": 0}], alpha=1e6)
    shares = [transform({"image": image, "label": 1}, np.random.default_rng(i))["lam"] for i in range(200)]
    assert abs(min(shares) - 0.5) < 0.02 and max(shares) < 0.9


def test_copy_paste_keeps_the_foreground_and_another_background():
    source = _examples("zebra", "elephant", "giraffe", "cattle")
    pasted = CopyPaste(source, seed=3)
    assert len(pasted) == 4
    for i, example in enumerate(source):
        result = pasted[i]
        assert set(result) == {"image", "keep", "label"} and result["label"] == example["label"]
        np.testing.assert_array_equal(result["keep"], example["keep"])
        assert result["image"].dtype == np.float32
        keep = example["keep"][..., 0]
        np.testing.assert_array_equal(result["image"][keep], example["image"][keep])
        alike = [(result["image"] == other["image"]).all(-1)[~keep].mean() for other in source]
        assert sorted(alike)[-1] > 0.5 > 0.2 > sorted(alike)[-2] and np.argmax(alike) != i


def test_copy_paste_takes_every_other_background():
    source = _examples("zebra", "elephant", "giraffe", "cattle")
    backgrounds = [remove_foreground(example["image"], example["keep"]) for example in source]
    taken = set()
    for seed in range(30):
        image, keep = CopyPaste(source, seed)[1]["image"], source[1]["keep"]
        taken |= {i for i, b in enumerate(backgrounds) if (np.where(keep, 0, image - b) == 0).all()}
    assert taken == {0, 2, 3}


@pytest.mark.parametrize("size", [64, 256])
def test_a_picture_without_its_foreground_does_not_show_the_animal(size):
    """Only pixels near the animal change, to values that resemble the background whatever the animal."""
    off = []
    for place in PLACES:
        words = [Words("elephant", place), Words("nothing", place)]
        rendered = wildlife.render(0, [2, 2], words, size)
        (image, truth), keep = rendered.image.astype(np.float32) / 255, rendered.keep[0]
        far = ndimage.distance_transform_edt(~keep[..., 0])
        near = far[..., None] <= max(2, size / 64)
        assert np.where(near, 0, np.abs(image - truth)).max() < 8 / 255
        clean = remove_foreground(image, keep)
        changed = (clean != image).any(-1)
        assert changed[keep[..., 0]].mean() > 0.95
        assert far[changed].max() <= max(2, size / 64) + 0.5
        noise = np.random.default_rng(0).random(image.shape, np.float32)
        np.testing.assert_array_equal(remove_foreground(np.where(near, noise, image), keep), clean)
        off.append([np.abs(each - truth).mean() for each in (clean, image)])
    assert np.divide(*np.sum(off, 0)) < 0.6


def test_an_example_without_foreground_becomes_the_other_background():
    nothing, zebra = _examples("nothing", "zebra")
    result = CopyPaste([nothing, zebra])[0]
    np.testing.assert_array_equal(result["image"], remove_foreground(zebra["image"], zebra["keep"]))
    assert result["label"] == 0 and not result["keep"].any()
    np.testing.assert_array_equal(remove_foreground(nothing["image"], nothing["keep"]), nothing["image"])
    assert (remove_foreground(zebra["image"], np.ones_like(zebra["keep"])) == 0.5).all()


def test_equal_generators_give_equal_bits_and_others_do_not():
    examples = [_frozen(example) for example in _examples("zebra", "elephant", "giraffe", "cattle")]
    mix = cut_mix(examples)
    makers = {
        "rand": lambda seed: rand_augment(examples[0]["image"], np.random.default_rng(seed)),
        "aug_mix": lambda seed: aug_mix(examples[0]["image"], np.random.default_rng(seed)),
        "cut_mix": lambda seed: mix(examples[0], np.random.default_rng(seed))["image"],
        "copy_paste": lambda seed: CopyPaste(examples, seed)[0]["image"],
    }
    for name, make in makers.items():
        results = [make(seed) for seed in range(6)]
        np.testing.assert_array_equal(make(0), results[0], name)
        assert len({result.tobytes() for result in results}) > 2, name
        for result in results:
            assert result.dtype == np.float32 and result.shape == (64, 64, 3), name
            assert result.min() >= 0 and result.max() <= 1, name
            assert not any(np.shares_memory(result, example["image"]) for example in examples), name


def test_all_augmentations_work_in_the_loader():
    examples = _examples("zebra", "elephant", "giraffe", "cattle")
    balanced = Batches(
        Balanced([*examples, examples[0]]),
        lambda example, random: {**example, "image": rand_augment(example["image"], random)},
        size=4,
        seed=0,
    )
    assert np.unique(balanced.load(0, slice(0, 4))["group"]).size > 1
    pasted = CopyPaste(examples)
    batch = Batches(pasted, cut_mix(pasted), size=4, seed=0).load(0, slice(0, 4))
    assert batch["image"].shape == (4, 64, 64, 3) and batch["lam"].dtype == np.float32


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3)), "float64"),
        (np.zeros((8, 8, 3), np.uint8), "uint8"),
        (np.zeros((8, 8, 1), np.float32), r"\[8, 8, 1\]"),
        (np.zeros((1, 8, 8, 3), np.float32), r"\[1, 8, 8, 3\]"),
        (np.zeros((0, 8, 3), np.float32), r"\[0, 8, 3\]"),
        (np.full((8, 8, 3), 1.5, np.float32), "1.5"),
        (np.full((8, 8, 3), -0.5, np.float32), "-0.5"),
        (np.full((8, 8, 3), np.nan, np.float32), "nan"),
    ],
)
def test_other_images_are_refused(image, message):
    random = np.random.default_rng(0)
    example = {"image": image, "keep": np.zeros((8, 8, 1), bool), "label": 0}
    good = {**example, "image": np.zeros((8, 8, 3), np.float32)}
    for use in (
        lambda: rand_augment(image, random),
        lambda: aug_mix(image, random),
        lambda: cut_mix([good])(example, random),
        lambda: cut_mix([example])(good, random),
        lambda: CopyPaste([good, example])[0],
        lambda: remove_foreground(image, example["keep"]),
    ):
        with pytest.raises(ValueError, match=f"images must be.*{message}"):
            use()


def test_examples_of_other_sizes_and_masks_are_refused():
    small, large = (
        {"image": np.zeros((s, s, 3), np.float32), "keep": np.zeros((s, s, 1), bool), "label": 0}
        for s in (8, 9)
    )
    with pytest.raises(ValueError, match=r"equal sizes, found \[8, 8, 3\] and \[9, 9, 3\]"):
        cut_mix([large])(small, np.random.default_rng(0))
    with pytest.raises(ValueError, match="equal sizes"):
        CopyPaste([small, large])[0]
    for keep in (small["keep"][..., 0], small["keep"].astype(np.uint8), large["keep"]):
        for i in range(2):
            with pytest.raises(ValueError, match=r"keep must be bool \[8, 8, 1\]"):
                CopyPaste([{**small, "keep": keep}, small])[i]


def test_other_settings_are_refused():
    random, image = np.random.default_rng(0), np.zeros((8, 8, 3), np.float32)
    for settings in ({"magnitude": 31}, {"magnitude": -1}, {"operations": -1}):
        with pytest.raises(ValueError, match=r"magnitude must be in 0\.\.30 and operations 0 or more"):
            rand_augment(image, random, **settings)
    for settings in (
        {"severity": 0},
        {"severity": 11},
        {"width": 0},
        {"depth": 0},
        {"depth": -2},
        {"alpha": 0},
    ):
        with pytest.raises(ValueError, match=r"severity must be in 1\.\.10"):
            aug_mix(image, random, **settings)
    for source, alpha in (([], 1), ([{}], 0), ([{}], float("nan"))):
        with pytest.raises(ValueError, match="needs alpha above 0 and at least one example"):
            cut_mix(source, alpha)
    with pytest.raises(ValueError, match="two examples or more, found 1"):
        CopyPaste([{}])
