"""`couple reproduce`: the paper's tables and plots, made with the bundled models.

Here are the options and what can be said about them before torch is imported; `couple.reproduce` does the work.
"""

from pathlib import Path
from typing import Annotated

import typer

from couple.cli.options import Misuse, check_least


def reproduce(
    quick: Annotated[bool, typer.Option("--quick", help="A few scenes of everything, in two minutes.")] = False,
    only: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME", help="Which experiments, as the tables name them.", show_default="all"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of results; a run that was cut off goes on there.")] = Path(
        "out/reproduce"
    ),
    workers: Annotated[int, typer.Option(help="Processes, one thread each.")] = 2,
    tune: Annotated[
        bool, typer.Option("--tune", help="Choose the settings of all methods on held-out scenes, and stop.")
    ] = False,
) -> None:
    """Make the paper's tables and plots with the bundled models: half an hour on two cores."""
    check_least("workers", workers, 1)
    if tune and quick:
        raise Misuse("--tune has one size; leave out --quick.")
    from couple.reproduce import command

    command.run(quick=quick, only=None if only is None else _names(only), out=out, workers=workers, tune=tune)


def _names(only: str) -> list[str]:
    return [name.strip() for name in only.split(",")]
