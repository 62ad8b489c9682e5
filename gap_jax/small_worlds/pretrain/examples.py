"""Data-set examples on their way to training: selected, augmented and drawn side by side."""

from collections.abc import Callable

import numpy as np
from scipy.ndimage import zoom

from gap_jax.data.batch import Example, Transform
from gap_jax.data.encoding import as_arrays
from gap_jax.data.loader import Source

Random = np.random.Generator
AugmentImage = Callable[[np.ndarray, Random], np.ndarray]  # from and to an image, float32 `[H,W,3]` in [0,1]


def first_examples(source: Source, count: int) -> list[Example]:
    """Return the first `count` examples of a source, or all if it has fewer."""
    return [source[i] for i in range(min(count, len(source)))]


def float_image(example: Example) -> np.ndarray:
    """Return an example's image as float32 `[H,W,3]` in [0,1]."""
    return example["image"].astype(np.float32) / 255


def example_arrays(augment: AugmentImage | None = None) -> Transform:
    """Return a transform from an example to its arrays, with `augment` applied to the image."""

    def transform(example, random):
        arrays = as_arrays(example)
        return arrays | {"image": augment(arrays["image"], random)} if augment else arrays

    return transform


def augment_image(image: np.ndarray, random: Random) -> np.ndarray:
    """Change brightness and contrast mildly, and add noise and blotches such as generated images have."""
    coarse = random.normal(0, random.uniform(0, 0.05), (16, 16, 3)).astype(np.float32)
    image = image + zoom(coarse, (image.shape[0] / 16, image.shape[1] / 16, 1), order=1)
    image = (image - 0.5) * random.uniform(0.9, 1.1) + 0.5 + random.uniform(-0.05, 0.05)
    image += random.normal(0, random.uniform(0, 0.02), image.shape).astype(np.float32)
    return np.clip(image, 0, 1).astype(np.float32)


def image_grid(*rows: np.ndarray) -> np.ndarray:
    """Return one picture of rows of images `[n,H,W,3]`, each row's images side by side."""
    return np.concatenate([np.concatenate(list(np.asarray(row, np.float32)), 1) for row in rows])
