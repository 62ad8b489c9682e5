"""The worlds of the experiment on one's own folder: depth, class maps, and classes with or without masks."""

import dataclasses
from pathlib import Path
from typing import Any

from gap_jax.closed_loop.targets import target_path
from gap_jax.closed_loop.world import DataSets, FixedPrompts, World
from gap_jax.data.depth.dataset import DepthFolder
from gap_jax.data.depth.folder import DepthFolderLayout
from gap_jax.data.masked.dataset import MaskedFolder, WholeFolder
from gap_jax.data.masked.folder import MaskedFolderLayout, WholeFolderLayout
from gap_jax.data.segmented.dataset import SegmentedFolder
from gap_jax.data.segmented.folder import SegmentedFolderLayout
from gap_jax.diffusion.align import Alignment, inpaint
from gap_jax.experiments.classification import worlds
from gap_jax.experiments.classification.task import baselines, classification_task
from gap_jax.experiments.depth import files
from gap_jax.experiments.depth.corrupted import PHOTO_TEXTS
from gap_jax.experiments.own.folders import class_names, divide, prepare
from gap_jax.experiments.own.settings import OwnDepth, OwnMasked, OwnSegmented, OwnWhole
from gap_jax.experiments.segmentation import files as segmentation
from gap_jax.tasks.classification import class_weights, uniform_cross_entropy


def build_depth(config: OwnDepth, work: Path, held_out: int) -> World:
    """Return the world of images with depth maps: that of the depth experiment on the prepared folders."""
    layout = divide(config, DepthFolderLayout(config.far), work)
    networks = files.load_networks(config)
    data, domains = prepare(config, layout, DepthFolder, work)
    ready = dataclasses.replace(config, data=data, domains=domains, targets=_targets(config, domains))
    world = files.build(ready, held_out, networks)
    targets = world.targets
    if not config.targets:
        targets = {
            name: dataclasses.replace(target, text=PHOTO_TEXTS[name]) for name, target in targets.items()
        }
    return dataclasses.replace(world, **_words(config, world.data), targets=targets)


def build_segmented(config: OwnSegmented, work: Path, held_out: int) -> World:
    """Return the world of images with class maps: that of the segmentation experiment on prepared folders."""
    layout = divide(config, SegmentedFolderLayout(config.first, config.unlabelled), work)
    networks = segmentation.load_networks(config)
    data, domains = prepare(config, layout, SegmentedFolder, work)
    ready = dataclasses.replace(config, data=data, domains=domains, targets=_targets(config, domains))
    world = segmentation.build(ready, held_out, networks)
    return dataclasses.replace(world, **_words(config, world.data))


def build_classes(config: OwnMasked, work: Path, held_out: int) -> World:
    """Return the world of images with classes, with masks of their foregrounds or without."""
    whole = isinstance(config, OwnWhole)
    folders, dataset = (WholeFolderLayout(), WholeFolder) if whole else (MaskedFolderLayout(), MaskedFolder)
    classes = class_names(config, folders)
    layout = divide(config, dataclasses.replace(folders, classes=classes), work)
    networks = worlds.load_networks(config, classes)
    data, domains = prepare(config, layout, dataset, work)
    ready = dataclasses.replace(config, data=data)
    validation, test = (worlds.held_out_set(ready, split, held_out) for split in ("validation", "test"))
    tested, targets = files.shifts(
        domains, _targets(config, domains), validation, test, held_out, config.pixels, PHOTO_TEXTS
    )
    parts = worlds.parts_from_files(
        ready,
        networks,
        title="",
        field="group",
        validation=validation,
        test=test,
        prompts=FixedPrompts(),
    )
    labels, kept = worlds.labels_and_foregrounds(parts.original)
    task = classification_task(
        classes,
        uniform_cross_entropy,
        ("macro_recall", "calibration"),
        paste=True,
        weights=class_weights(labels, len(classes)),
    )
    drawn = dataclasses.replace(task.pictures, name="foreground")
    if whole:
        drawn = dataclasses.replace(drawn, name="original image", label=lambda label: label["image"])
        task = dataclasses.replace(task, align=_from_original, generation_align=None)
    data_sets = DataSets(
        original=parts.original,
        validation={"clean": validation},
        test=test,
        domains=tested,
        subsets=worlds.class_subsets(labels, kept | whole, classes, keep=config.keep_classes),
    )
    return World(
        **_words(config, data_sets),
        generator=parts.generator,
        models=parts.models,
        task=dataclasses.replace(task, pictures=drawn),
        data=data_sets,
        targets=targets,
        baselines=baselines(parts.original, parts.grouped, "group", kept),
    )


def _targets(config: OwnDepth | OwnSegmented | OwnMasked, domains: dict[str, Path]) -> dict[str, str]:
    """Return the given target domains, those in the folders of domains by their prepared data sets."""
    names = {folder: name for name, folder in config.domains.items()}
    return {
        name: str(domains[names[Path(value)]]) if Path(value) in names else value
        for name, value in config.targets.items()
    }


def _words(config: OwnDepth | OwnSegmented | OwnMasked, data: DataSets) -> dict[str, Any]:
    """Return the fields of a `World` that say in words what it is about."""
    texts = [value for value in config.targets.values() if target_path(value) is None]
    return {
        "title": config.data.resolve().name,
        "summary": f"The model {config.model} is fine-tuned on {len(data.original)} images of {config.data} "
        f"and tested on {len(data.test['image'])} others, also under shift.",
        "prompts": FixedPrompts(agnostic=config.subject, written=tuple(texts or PHOTO_TEXTS.values())),
    }


def _from_original(strength: float) -> Alignment:
    """Return the alignment that starts from the noised original: `inpaint` where nothing is kept."""
    if strength == 1:
        raise ValueError(
            "images without masks must keep something of the original, or their class is lost: set "
            "sampling.strength below 1, such as 0.6; found 1"
        )
    return inpaint(strength)
