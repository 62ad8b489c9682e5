"""Check, prepare and export data sets, and make masks for them; docs/data.md describes the layouts.

Example: `python -m gap_jax.data check taskonomy --root FOLDER`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from gap_jax.data.depth.folder import DepthFolderLayout
from gap_jax.data.depth.omnidata import OmnidataLayout
from gap_jax.data.depth.taskonomy import TaskonomyLayout
from gap_jax.data.inventory import describe_faults
from gap_jax.data.masked.boxes import Fill, fill_boxes, write_masks
from gap_jax.data.masked.folder import MaskedFolderLayout, WholeFolderLayout
from gap_jax.data.masked.iwildcam import IWildCamLayout
from gap_jax.data.masked.waterbirds import WaterbirdsLayout
from gap_jax.data.segmented.folder import SegmentedFolderLayout
from gap_jax.errors import one_line_errors
from gap_jax.ranges import Count, CountOrZero, Share, with_ranges

LayoutChoice = (
    Annotated[TaskonomyLayout, tyro.conf.subcommand("taskonomy")]
    | Annotated[OmnidataLayout, tyro.conf.subcommand("omnidata")]
    | Annotated[DepthFolderLayout, tyro.conf.subcommand("folder")]
    | Annotated[WaterbirdsLayout, tyro.conf.subcommand("waterbirds")]
    | Annotated[IWildCamLayout, tyro.conf.subcommand("iwildcam")]
    | Annotated[MaskedFolderLayout, tyro.conf.subcommand("masked-folder")]
    | Annotated[WholeFolderLayout, tyro.conf.subcommand("class-folder")]
    | Annotated[SegmentedFolderLayout, tyro.conf.subcommand("segmented-folder")]
)
_DEPTH_LAYOUTS = (TaskonomyLayout, OmnidataLayout, DepthFolderLayout)

# TFDS, Grain and matplotlib are imported by the commands that use them, so that --help is fast.


@with_ranges
def run_check(
    layout: LayoutChoice,
    root: Path,
    sheet: Path = Path("contact_sheet.png"),
    sample: CountOrZero = 200,
    size: Count = 256,
    tolerance: Share = 0.01,
) -> None:
    """Tell what a folder holds and what is missing, and draw examples to look at.

    Args:
        layout: data set, whose layout the folder must have
        root: folder of the data set
        sheet: PNG file to draw examples in; each row has an image and its depth, foreground or classes
        sample: number of examples to read; 0 reads all
        size: side of the drawn images, in pixels
        tolerance: share of examples that may be unusable; more are an error
    """
    from gap_jax.data.check import DEPTH_VIEW, MASKED_VIEW, SEGMENTED_VIEW, WHOLE_VIEW, check

    view = DEPTH_VIEW if isinstance(layout, _DEPTH_LAYOUTS) else MASKED_VIEW
    view = {SegmentedFolderLayout: SEGMENTED_VIEW, WholeFolderLayout: WHOLE_VIEW}.get(type(layout), view)
    check(view, layout, root, sheet=sheet, sample=sample, size=size, tolerance=tolerance)


@with_ranges
def run_prepare(
    layout: LayoutChoice, root: Path, data_dir: Path, size: Count | None = None, tolerance: Share = 0.01
) -> None:
    """Read every image of a folder and write the data set to train on.

    Args:
        layout: data set, whose layout the folder must have
        root: folder of the data set
        data_dir: folder to keep prepared data sets in
        size: side of the prepared images, in pixels; by default 448 for iWildCam, 512 for a segmented folder,
            else 384
        tolerance: share of examples that may be unusable; more are an error
    """
    from gap_jax.data.depth.dataset import DepthFolder, Omnidata, Taskonomy
    from gap_jax.data.folder_dataset import FolderDataset
    from gap_jax.data.masked.dataset import IWildCam, MaskedFolder, Waterbirds, WholeFolder
    from gap_jax.data.segmented.dataset import SegmentedFolder

    builders: dict[type, type[FolderDataset]] = {
        TaskonomyLayout: Taskonomy,
        OmnidataLayout: Omnidata,
        DepthFolderLayout: DepthFolder,
        WaterbirdsLayout: Waterbirds,
        IWildCamLayout: IWildCam,
        MaskedFolderLayout: MaskedFolder,
        WholeFolderLayout: WholeFolder,
        SegmentedFolderLayout: SegmentedFolder,
    }
    builder = builders[type(layout)].prepared(layout, root, data_dir, size or layout.size, tolerance)
    print(
        f"{builder.data_dir} is complete: read it with "
        f'tfds.builder_from_directory("{builder.data_dir}").as_data_source("train")'
    )


@with_ranges
def run_masks(
    images: Path,
    masks: Path,
    boxes: Path | None = None,
    sam: str | None = None,
    suffix: str = "",
    sheet: Path = Path("contact_sheet.png"),
    tolerance: Share = 0.01,
) -> None:
    """Make masks of the foreground, from boxes around it, by Segment Anything, or by both.

    No file but an older mask and an older contact sheet of this command is replaced.

    Args:
        images: folder of the images, which the file names of the boxes are relative to
        masks: folder to write masks to, as PNG files with the images' names
        boxes: CSV file with the columns file_name,x,y,width,height, in pixels, or JSON file in the format of
            COCO or of MegaDetector
        sam: folder or hub id of Segment Anything, such as facebook/sam-vit-base, to cut out what is in the
            boxes or, without boxes, what is in the middle of each image
        suffix: text between the image's name and .png in a mask's name; _mask for Waterbirds
        sheet: PNG file to draw some images in, each with its foreground and its mask
        tolerance: share of images that may be unusable; more are an error
    """
    if boxes is None and sam is None:
        raise ValueError("masks are made from boxes, by Segment Anything, or by both: give --boxes or --sam")
    from gap_jax.data.check import draw_masks

    fill: Fill = fill_boxes
    if sam is not None:
        from gap_jax.data.masked.segment_anything import SegmentAnything

        fill = SegmentAnything(sam)
    written, faults = write_masks(boxes, images, masks, suffix, tolerance, fill)
    print("\n".join([f"{masks}: wrote {len(written)} masks", *describe_faults(faults)]))
    if written:
        draw_masks(written, sheet)


def run_unpack(parquet: Path, root: Path) -> None:
    """Write Waterbirds in its original layout from a copy in Parquet files, such as the hub's.

    Args:
        parquet: folder of the copy's files, whose names begin with train, validation or test
        root: new folder to write metadata.csv and the images to
    """
    from gap_jax.data.masked.waterbirds_copy import unpack_waterbirds

    count = unpack_waterbirds(parquet, root)
    print(f"{root}: wrote {count} images and metadata.csv; add their masks, then check the folder")


@with_ranges
def run_export(
    data: Path,
    target: Path,
    format: Literal["image-folder", "webdataset", "coco", "tfds"],
    classes: tuple[str, ...] = (),
    leave_out: tuple[str, ...] = (),
    boxes: str | None = None,
    box_format: Literal["xywh", "xyxy"] = "xywh",
    box_classes: str | None = None,
    prompts: Path | None = None,
    license: str = "unknown",
    images_per_shard: Count = 1000,
) -> None:
    """Write a prepared or generated data set for other programs, with a dataset card.

    Args:
        data: folder of the data set, such as that of a stage `generate`
        target: new folder to write; it appears when it is complete
        format: image folder, WebDataset, COCO or TFDS
        classes: names of the classes in the order of the labels, if the data set does not have them
        leave_out: fields that are not written
        boxes: COCO only: the field that holds boxes
        box_format: the numbers of a box in pixels: x y width height, or x1 y1 x2 y2
        box_classes: COCO only: the field that holds the classes of the boxes
        prompts: folder of a stage `optimize`, whose prompt files are added
        license: the licence's identifier on the Hugging Face hub
        images_per_shard: WebDataset only: the number of examples in a tar file
    """
    from gap_jax.data.writing.coco import Boxes
    from gap_jax.data.writing.export import export

    stored = export(
        data,
        target,
        format,
        class_names=classes,
        left_out=leave_out,
        boxes=None if boxes is None else Boxes(boxes, box_format == "xyxy", box_classes),
        prompts=prompts,
        license=license,
        images_per_shard=images_per_shard,
    )
    print(
        f"{target} is complete: {sum(stored.sizes.values())} examples; {target / 'README.md'} describes them"
    )


def main(args: list[str] | None = None) -> None:
    """Run a command; an error in the data ends the program with its message."""
    commands: dict[str, Any] = {
        "check": run_check,
        "prepare": run_prepare,
        "masks": run_masks,
        "unpack": run_unpack,
        "export": run_export,
    }
    config = (tyro.conf.CascadeSubcommandArgs, tyro.conf.OmitSubcommandPrefixes)
    with one_line_errors():
        tyro.extras.subcommand_cli_from_dict(
            commands, args=args, prog="python -m gap_jax.data", description=__doc__, config=config
        )


if __name__ == "__main__":
    main()
