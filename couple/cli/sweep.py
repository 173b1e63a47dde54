"""`couple sweep`: all runs of a recipe's [sweep] table, one process for each device, each run once.

Here is the command line; `couple.recipe` says what a run is and `couple.jobs.board` who does it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from couple.cli.folder import RECORD
from couple.cli.options import Misuse, check_least

if TYPE_CHECKING:
    from couple.jobs.board import Job


def sweep(
    file: Annotated[Path | None, typer.Argument(metavar="FILE.toml", help="The recipe.", show_default=False)] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=VALUE", help="Put a value, in TOML, in the place of one of the recipe."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of results; a sweep that was cut off goes on there, and others may help.",
            show_default="out/sweep-FILE",
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes.", show_default="one for each GPU, or one")] = None,
    ray: Annotated[bool, typer.Option("--ray", help="On the Ray cluster at RAY_ADDRESS, or a local one.")] = False,
) -> int:
    """Run every combination that a recipe sweeps over; what is finished is not run again."""
    if file is None:
        raise Misuse("name a recipe, e.g. couple sweep recipes/weights.toml.")
    check_least("workers", workers, 1)
    from couple.jobs import board as jobs
    from couple.jobs import clusters

    if out is not None and (out / RECORD).is_file():
        raise Misuse(f"--out {out} is a run, not the folder of a sweep; name another, e.g. --out {out}-sweep.")
    board = jobs.Board(out or Path("out") / f"sweep-{file.stem}", planned(file, sets or []))
    try:
        if ray:
            clusters.run(board, workers)
        else:
            jobs.run(board, *_machine(workers))
    except KeyboardInterrupt:
        print("couple: what is finished stays; the same command goes on with the rest.", file=sys.stderr)
        raise
    print(board.summary())
    return 0 if board.finished else 1


def planned(file: Path, sets: Sequence[str]) -> list[Job]:
    """The runs of a recipe's sweep, as jobs."""
    from couple import recipe
    from couple.jobs.board import Job

    return [
        Job(name, run_one, {"file": str(one.file.absolute()), "contents": dict(one.written)})
        for name, one in recipe.expand(recipe.read(file, sets))
    ]


def run_one(folder: Path, device: str | None, file: str, contents: dict[str, Any]) -> int:
    """One run of a sweep, in whatever process it is."""
    from couple import recipe

    asked = recipe.recorded({"file": file, "contents": contents, "device": device}, Path(file))
    return recipe.run(asked, folder, device)


def _machine(workers: int | None) -> tuple[list[str | None], int | None]:
    """The device of each process, and how many threads each has where they share a CPU."""
    import os

    import torch

    gpus = torch.cuda.device_count()
    if gpus:
        return [f"cuda:{k % gpus}" for k in range(workers or gpus)], None
    count = workers or 1
    return ["cpu"] * count, max(1, (os.cpu_count() or 1) // count)
