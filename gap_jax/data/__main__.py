"""Check and prepare data sets of your own, and make masks from boxes; docs/data.md describes the layouts.

Example: `python -m gap_jax.data check taskonomy --root FOLDER`.
"""

from pathlib import Path
from typing import Annotated, Any

import tyro

from gap_jax.data.depth.folder import DepthFolderLayout
from gap_jax.data.depth.omnidata import OmnidataLayout
from gap_jax.data.depth.taskonomy import TaskonomyLayout
from gap_jax.data.inventory import describe_faults
from gap_jax.data.masked.boxes import write_masks
from gap_jax.data.masked.folder import MaskedFolderLayout
from gap_jax.data.masked.iwildcam import IWildCamLayout
from gap_jax.data.masked.waterbirds import WaterbirdsLayout
from gap_jax.data.segmented.folder import SegmentedFolderLayout

LayoutChoice = (
    Annotated[TaskonomyLayout, tyro.conf.subcommand("taskonomy")]
    | Annotated[OmnidataLayout, tyro.conf.subcommand("omnidata")]
    | Annotated[DepthFolderLayout, tyro.conf.subcommand("folder")]
    | Annotated[WaterbirdsLayout, tyro.conf.subcommand("waterbirds")]
    | Annotated[IWildCamLayout, tyro.conf.subcommand("iwildcam")]
    | Annotated[MaskedFolderLayout, tyro.conf.subcommand("masked-folder")]
    | Annotated[SegmentedFolderLayout, tyro.conf.subcommand("segmented-folder")]
)
_DEPTH_LAYOUTS = (TaskonomyLayout, OmnidataLayout, DepthFolderLayout)

# TFDS, Grain and matplotlib are imported by the commands that use them, so that --help is fast.


def run_check(
    layout: LayoutChoice,
    root: Path,
    sheet: Path = Path("contact_sheet.png"),
    sample: int = 200,
    size: int = 256,
    tolerance: float = 0.01,
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
    from gap_jax.data.check import DEPTH_VIEW, MASKED_VIEW, SEGMENTED_VIEW, check

    view = DEPTH_VIEW if isinstance(layout, _DEPTH_LAYOUTS) else MASKED_VIEW
    view = SEGMENTED_VIEW if isinstance(layout, SegmentedFolderLayout) else view
    check(view, layout, root, sheet=sheet, sample=sample, size=size, tolerance=tolerance)


def run_prepare(
    layout: LayoutChoice, root: Path, data_dir: Path, size: int | None = None, tolerance: float = 0.01
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
    from gap_jax.data.masked.dataset import IWildCam, MaskedFolder, Waterbirds
    from gap_jax.data.segmented.dataset import SegmentedFolder

    builders: dict[type, type[FolderDataset]] = {
        TaskonomyLayout: Taskonomy,
        OmnidataLayout: Omnidata,
        DepthFolderLayout: DepthFolder,
        WaterbirdsLayout: Waterbirds,
        IWildCamLayout: IWildCam,
        MaskedFolderLayout: MaskedFolder,
        SegmentedFolderLayout: SegmentedFolder,
    }
    builder = builders[type(layout)].prepared(layout, root, data_dir, size or layout.size, tolerance)
    print(
        f"{builder.data_dir} is complete: read it with "
        f'tfds.builder_from_directory("{builder.data_dir}").as_data_source("train")'
    )


def run_masks(boxes: Path, images: Path, masks: Path, suffix: str = "", tolerance: float = 0.01) -> None:
    """Make masks from boxes around the foreground; no file but an older mask of this command is replaced.

    Args:
        boxes: CSV file with the columns file_name,x,y,width,height, in pixels, or JSON file in the format of
            COCO or of MegaDetector
        images: folder that the file names of the boxes are relative to
        masks: folder to write masks to, as PNG files with the images' names
        suffix: text between the image's name and .png in a mask's name; _mask for Waterbirds
        tolerance: share of images that may be unusable; more are an error
    """
    count, faults = write_masks(boxes, images, masks, suffix, tolerance)
    print("\n".join([f"{masks}: wrote {count} masks", *describe_faults(faults)]))


def run_unpack(parquet: Path, root: Path) -> None:
    """Write Waterbirds in its original layout from a copy in Parquet files, such as the hub's.

    Args:
        parquet: folder of the copy's files, whose names begin with train, validation or test
        root: new folder to write metadata.csv and the images to
    """
    from gap_jax.data.masked.waterbirds_copy import unpack_waterbirds

    count = unpack_waterbirds(parquet, root)
    print(f"{root}: wrote {count} images and metadata.csv; add their masks, then check the folder")


def main(args: list[str] | None = None) -> None:
    """Run a command; an error in the data ends the program with its message."""
    commands: dict[str, Any] = {
        "check": run_check,
        "prepare": run_prepare,
        "masks": run_masks,
        "unpack": run_unpack,
    }
    config = (tyro.conf.CascadeSubcommandArgs, tyro.conf.OmitSubcommandPrefixes)
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, args=args, prog="python -m gap_jax.data", description=__doc__, config=config
        )
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
