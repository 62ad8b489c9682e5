"""Files of target features: what a target domain is given by instead of its images or texts.

The paper's authors publish such files as torch pickles: `{"mean": [D], "std": [D]}` of CLIP's image features
(`test_day_loc=287_clip_embeds.pt`), and the text states `[L,D]` of a text (`waterbirds_text_guidance.pt`).
"""

from pathlib import Path

import jax.numpy as jnp

from gap_jax.checks import expect_finite
from gap_jax.stages.guidance import FeatureStatistics
from gap_jax.weights.tensors import load_file, to_array


def load_target_features(path: str | Path) -> FeatureStatistics:
    """Return the target features in a file: `[D]` of images in CLIP, or text states `[L,D]`.

    The file is a `.safetensors` file or a torch pickle (`.pt`, `.pth`, `.bin`, `.ckpt`), saved on any device,
    which is read by `torch.load(weights_only=True)` and so cannot run code. It holds `mean` and, optionally,
    `std` of the same shape; a pickle may hold the mean alone.

    Raises FileNotFoundError; ValueError for a file that is not readable or has other entries, for another
    shape, NaN, infinity or a negative `std`; ImportError for a pickle if torch is not installed.
    """
    path = Path(path)
    content = load_file(path, "file of target features")
    entries = content if isinstance(content, dict) else {"mean": content}
    if "mean" not in entries or not set(entries) <= {"mean", "std"}:
        found = ", ".join(map(str, entries))[:200] or "nothing"
        raise ValueError(f"{path} must hold the tensor mean and, optionally, std; found {found}")
    arrays = {name: to_array(value, name, path) for name, value in entries.items()}
    shape = arrays["mean"].shape
    for name, array in arrays.items():
        if array.ndim not in (1, 2) or array.shape != shape or not array.size:
            raise ValueError(
                f"mean and std in {path} must both have shape [D], features of images in CLIP, or [L, D], "
                f"text states; found {list(array.shape)} of {name}"
            )
        expect_finite(f"{name} in {path}", array)
    std = arrays.get("std")
    if std is not None and std.min() < 0:
        raise ValueError(f"std in {path} must not be negative, found {std.min():g}: it is a deviation")
    return FeatureStatistics(jnp.asarray(arrays["mean"]), None if std is None else jnp.asarray(std))
