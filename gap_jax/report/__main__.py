"""The command that puts runs side by side.

python -m gap_jax.report compare runs/a runs/b
"""

from pathlib import Path
from typing import Annotated

import tyro

from gap_jax.report.compare import write_comparison


def compare(
    runs: Annotated[
        tuple[Path, ...],
        tyro.conf.Positional,
        tyro.conf.arg(
            metavar="RUN", help="work folders of two or more runs; the others are compared with the first"
        ),
    ],
    output: Annotated[Path, tyro.conf.arg(help="HTML file to write")] = Path("comparison.html"),
) -> None:
    """Put the results of runs side by side on one page: numbers, settings that differ, pictures."""
    print(f"the comparison: {write_comparison(runs, output)}")


def main(args: list[str] | None = None) -> None:
    """Run the command line; end with a message if runs cannot be compared."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"compare": compare},
            args=args,
            prog="python -m gap_jax.report",
            description="Put the results of runs side by side.",
        )
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
