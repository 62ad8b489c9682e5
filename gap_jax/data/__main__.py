"""Data sets of one's own: `python -m gap_jax.data check taskonomy --root …`, `prepare`, masks from boxes."""

from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from gap_jax.data.check import DEPTH, MASKED, View, check
from gap_jax.data.depth.folder import DepthFolder, DepthFolderLayout
from gap_jax.data.depth.omnidata import Omnidata, OmnidataLayout
from gap_jax.data.depth.taskonomy import Taskonomy, TaskonomyLayout
from gap_jax.data.folder_dataset import FolderDataset
from gap_jax.data.masked.boxes import write_masks
from gap_jax.data.masked.folder import MaskedFolder, MaskedFolderLayout
from gap_jax.data.masked.iwildcam import IWildCam, IWildCamLayout
from gap_jax.data.masked.waterbirds import Waterbirds, WaterbirdsLayout

LayoutChoice = (
    Annotated[TaskonomyLayout, tyro.conf.subcommand("taskonomy")]
    | Annotated[OmnidataLayout, tyro.conf.subcommand("omnidata")]
    | Annotated[DepthFolderLayout, tyro.conf.subcommand("folder")]
    | Annotated[WaterbirdsLayout, tyro.conf.subcommand("waterbirds")]
    | Annotated[IWildCamLayout, tyro.conf.subcommand("iwildcam")]
    | Annotated[MaskedFolderLayout, tyro.conf.subcommand("masked-folder")]
)


class _DataSet(NamedTuple):
    builder: type[FolderDataset]
    view: View


_KINDS = {
    TaskonomyLayout: _DataSet(Taskonomy, DEPTH),
    OmnidataLayout: _DataSet(Omnidata, DEPTH),
    DepthFolderLayout: _DataSet(DepthFolder, DEPTH),
    WaterbirdsLayout: _DataSet(Waterbirds, MASKED),
    IWildCamLayout: _DataSet(IWildCam, MASKED),
    MaskedFolderLayout: _DataSet(MaskedFolder, MASKED),
}


def run_check(
    source: LayoutChoice,
    root: Path,
    sheet: Path = Path("contact_sheet.png"),
    sample: int = 200,
    size: int = 256,
    tolerance: float = 0.01,
) -> None:
    """Say what is in a folder and what is missing, and draw examples to look at.

    Args:
        source: What lies how.
        root: The folder.
        sheet: Where examples are drawn: image, depth or foreground, mask.
        sample: How many images are read, 0 for all.
        size: Of what is drawn, in pixels.
        tolerance: Which share of images may be unusable.
    """
    view = _KINDS[type(source)].view
    check(view, source, root, sheet=sheet, sample=sample, size=size, tolerance=tolerance)


def run_prepare(
    source: LayoutChoice, root: Path, data_dir: Path, size: int = 256, tolerance: float = 0.01
) -> None:
    """Check every image of a folder, and write the data set that is trained on.

    Args:
        source: What lies how.
        root: The folder.
        data_dir: Where data sets are kept.
        size: Of images, in pixels.
        tolerance: Which share of images may be unusable.
    """
    builder = _KINDS[type(source)].builder.prepared(source, root, data_dir, size, tolerance)
    print(f'{builder.data_dir} is complete: tfds.builder_from_directory(…).as_data_source("train") reads it')


def run_masks(boxes: Path, images: Path, masks: Path, suffix: str = "") -> None:
    """Make masks from boxes around the foreground.

    Args:
        boxes: A CSV with the columns file_name,x,y,width,height, in pixels, or COCO's JSON.
        images: The folder that file names are relative to.
        masks: The folder that masks are written to, as PNG files with the images' names.
        suffix: What is added to a mask's name before .png; Waterbirds' is _mask.
    """
    print(f"{masks}: wrote {write_masks(boxes, images, masks, suffix)} masks")


def main(args: list[str] | None = None) -> None:
    """Run a command; what is wrong with the data ends it with a message."""
    commands = {"check": run_check, "prepare": run_prepare, "masks": run_masks}
    config = (tyro.conf.CascadeSubcommandArgs, tyro.conf.OmitSubcommandPrefixes)
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, args=args, prog="python -m gap_jax.data", description=__doc__, config=config
        )
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
