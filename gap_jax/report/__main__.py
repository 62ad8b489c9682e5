"""The command that compares runs, and the one that writes a report anew.

python -m gap_jax.report compare runs/a runs/b
python -m gap_jax.report write runs/a
"""

from pathlib import Path
from typing import Annotated

import tyro

from gap_jax.report.compare import write_comparison
from gap_jax.report.page import write_page


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


def write(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="work folder of a run")],
) -> None:
    """Write the report of a run anew from its results, for example with a later version of gap_jax."""
    print(f"the report: {write_page(run / 'results.json', run / 'report')}")


def main(args: list[str] | None = None) -> None:
    """Run the command with these arguments; None: those of the process."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            {"compare": compare, "write": write}, prog="python -m gap_jax.report", args=args
        )
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
