"""Data sets of one's own: `python -m gap_jax.data check taskonomy --root …`, and `prepare`."""

from pathlib import Path
from typing import Annotated

import tyro

from gap_jax.data.check import check
from gap_jax.data.depth_folder import DepthFiles, DepthFolder
from gap_jax.data.omnidata import Omnidata, OmnidataFiles
from gap_jax.data.taskonomy import Taskonomy, TaskonomyFiles

Source = (
    Annotated[TaskonomyFiles, tyro.conf.subcommand("taskonomy")]
    | Annotated[OmnidataFiles, tyro.conf.subcommand("omnidata")]
    | Annotated[DepthFiles, tyro.conf.subcommand("folder")]
)
_BUILDERS = {TaskonomyFiles: Taskonomy, OmnidataFiles: Omnidata, DepthFiles: DepthFolder}


def run_check(
    source: Source,
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
        sheet: Where examples are drawn: image, depth, mask.
        sample: How many images are read, 0 for all.
        size: Of what is drawn, in pixels.
        tolerance: Which share of images may be unusable.
    """
    check(source, root, sheet=sheet, sample=sample, size=size, tolerance=tolerance)


def run_prepare(source: Source, root: Path, data_dir: Path, size: int = 256, tolerance: float = 0.01) -> None:
    """Check every image of a folder, and write the data set that is trained on.

    Args:
        source: What lies how.
        root: The folder.
        data_dir: Where data sets are kept.
        size: Of images, in pixels.
        tolerance: Which share of images may be unusable.
    """
    builder = _BUILDERS[type(source)].prepared(source, root, data_dir, size, tolerance)
    print(f'{builder.data_dir} is complete: tfds.builder_from_directory(…).as_data_source("train") reads it')


def main(args: list[str] | None = None) -> None:
    """Run a command; what is wrong with the data ends it with a message."""
    commands = {"check": run_check, "prepare": run_prepare}
    config = (tyro.conf.CascadeSubcommandArgs, tyro.conf.OmitSubcommandPrefixes)
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, args=args, prog="python -m gap_jax.data", description=__doc__, config=config
        )
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
