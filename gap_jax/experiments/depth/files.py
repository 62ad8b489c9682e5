"""The depth experiment's world from files: prepared data sets, Stable Diffusion, and your own depth model."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import jax
import numpy as np

from gap_jax.closed_loop.targets import read_target
from gap_jax.closed_loop.world import (
    DataSets,
    FixedPrompts,
    Generator,
    Models,
    TargetDomain,
    World,
    as_batch,
    load_generator,
    load_others,
    select,
)
from gap_jax.data.batch import HostBatch
from gap_jax.data.corruptions.files import check_complete, list_corruptions, precomputed_sets
from gap_jax.data.prepared import Prepared, split_names
from gap_jax.experiments.depth.corrupted import TARGET_IMAGES, TARGETS, corrupted
from gap_jax.experiments.depth.settings import DepthFiles
from gap_jax.experiments.depth.task import depth_task
from gap_jax.models.layers import Recompute
from gap_jax.models.network import Network
from gap_jax.models.torch_modules.module import TorchModule, as_network
from gap_jax.small_worlds import rooms
from gap_jax.stages.evaluate import SetKey
from gap_jax.tasks.depth import NEGATIVE_PROMPT
from gap_jax.weights.depth import load_depth, save_depth
from gap_jax.weights.identify import expect_condition

UNET_SIZE = 256  # side of the images that XTC's U-Net was trained on
TARGET_TEXTS = {"fog": "a photo of a room in fog", "blur": "a blurry photo of a room"}
WRITTEN = (
    "a room in fog",
    "a dark room at night",
    "a blurry photo of a room",
    "a room in bright sunlight",
    "a cluttered room",
    "an old room with patterned wallpaper",
)


def load_networks(config: DepthFiles) -> tuple[Generator, Models]:
    """Read the generator's configurations, then load the depth models.

    Raises FileNotFoundError and ValueError for those that are missing or unlike what is expected.
    """
    expect_condition(config.controlnet or Path(config.pipeline, "controlnet"), "depth")
    generator = load_generator(config, config.controlnet)
    generator.open()
    load = partial(_network, recompute=config.recompute)
    return generator, Models(
        model=load(config.model, config.size),
        critic=load(config.critic or config.model, config.size),
        others=load_others(config.models, load),
    )


def build(config: DepthFiles, held_out: int, networks: tuple[Generator, Models] | None = None) -> World:
    """Return the world, with at most `held_out` images in each held-out set.

    `networks` are those of `load_networks`; None: they are loaded when the data is known to be complete.

    Raises FileNotFoundError and ValueError for data that is missing or unlike what is expected, and the
    errors of `load_networks`.
    """
    held_out_data = config.held_out or config.data
    validation, test = (Prepared(held_out_data, split).sample(held_out) for split in ("validation", "test"))
    precomputed = _check_precomputed(config.corrupted, test)
    clean, tested = as_batch(validation), as_batch(test)
    original = Prepared(config.data, "train")
    domains, targets = shifts(
        config.domains, config.targets, clean, tested, held_out, len(original[0]["image"])
    )
    generator, models = networks or load_networks(config)
    task = depth_task(config.loss, NEGATIVE_PROMPT)
    if (config.pipeline, config.controlnet) == ("small", None):
        task = depth_task(config.loss, condition=rooms.condition)  # as the small world's was trained
    return World(
        title="Depth",
        summary=f"The depth model {config.model} is fine-tuned on {config.data} and tested under shift.",
        generator=generator,
        models=models,
        task=task,
        data=DataSets(
            original=original,
            validation={"clean": clean},
            test=tested,
            domains=domains,
            precomputed=lambda: _precomputed(config.corrupted, test) if config.corrupted else (),
            num_precomputed=len(precomputed),
        ),
        targets=targets,
        prompts=FixedPrompts(written=WRITTEN),
    )


def _network(model: str, size: int | None = None, recompute: Recompute = "auto") -> Network:
    """Return a depth model that resizes images to `size`; None: to what it was trained at."""
    module, params = load_depth(model, size=size, recompute=recompute)
    side = size or getattr(module, "image_size", None) or UNET_SIZE

    def resize(images: jax.Array) -> jax.Array:
        return jax.image.resize(images, (len(images), side, side, images.shape[-1]), "bilinear")

    if isinstance(module, TorchModule):
        return as_network(module, params, resize=resize)._replace(save=partial(save_depth, module))
    return Network(
        lambda params, images: module.apply({"params": params}, resize(images)),
        params,
        save=partial(save_depth, module),
    )


def shifts(
    folders: Mapping[str, Path],
    given: Mapping[str, str],
    clean: HostBatch,
    tested: HostBatch,
    held_out: int,
    size: int,
    texts: Mapping[str, str] = TARGET_TEXTS,
) -> tuple[dict[str, HostBatch], dict[str, TargetDomain]]:
    """Return further test sets and the target domains, both by name.

    - `folders`: prepared data sets to test on, which have at most `held_out` examples tested.
    - `given`: the target domains as `read_target` takes them, or one of these data sets, some of whose images
      are then not tested. Without any, they are images of `clean` in fog and under blur, and `texts`.
    - `clean`, `tested`: the validation set and the test set. `tested` in fog and under blur is a further test
      set if these are targets.
    - `size`: the side of a target's images, in pixels.
    """
    fields = tuple(tested)
    corruptions = [name for name in TARGETS if name in given or not given]
    if reserved := {"clean", *corruptions} & set(folders):
        raise ValueError(
            f"domains must not be named {', '.join(sorted(reserved))}: another test set has that name"
        )
    domains, target_images = {}, {}
    for name, folder in folders.items():
        domains[name], target_images[folder] = _split_domain(folder, held_out, fields)
    for name, images in corrupted(tested["image"], corruptions).items():
        domains[name] = {**tested, "image": images}
    if not given:
        shown = corrupted(clean["image"][:TARGET_IMAGES], TARGETS)
        return domains, {name: TargetDomain(images=shown[name], text=texts[name]) for name in shown}
    return domains, {
        name: TargetDomain(images=target_images[Path(value)])
        if Path(value) in target_images
        else read_target(value, size)
        for name, value in given.items()
    }


def _split_domain(folder: Path, count: int, fields: tuple[str, ...]) -> tuple[HostBatch, np.ndarray]:
    """Return examples of a data set to test on, and images of others that show it as a target domain."""
    names = split_names(folder)
    source = Prepared(folder, "test" if "test" in names else names[0], fields=fields)
    order = np.random.default_rng(0).permutation(len(source))
    if len(order) <= TARGET_IMAGES:
        raise ValueError(
            f"{source.folder} must have more than {TARGET_IMAGES} examples, {TARGET_IMAGES} of them for the "
            f"target domain; found {len(order)}"
        )
    targets, tested = order[:TARGET_IMAGES], order[TARGET_IMAGES:][:count]
    return select(source, tested), select(source, targets)["image"]


def _check_precomputed(root: Path | None, test: Prepared) -> list[tuple[str, int]]:
    """Return the precomputed corruptions and severities; raise FileNotFoundError for incomplete ones."""
    if root is None:
        return []
    for corruption, severity in list_corruptions(root):
        check_complete(root / corruption / str(severity), test.files())
    return list(list_corruptions(root))


def _precomputed(root: Path, test: Prepared) -> Iterator[tuple[SetKey, np.ndarray]]:
    size = test[0]["image"].shape[0]
    for corruption, severity, images in precomputed_sets(root, test.files(), size):
        yield SetKey("3dcc", corruption, severity), images
