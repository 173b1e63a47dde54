"""`couple run`: what a recipe file says.

Here is the command line; `couple.recipe` does the work.
"""

from pathlib import Path
from typing import Annotated

import typer

from couple.cli import options
from couple.cli.folder import unused_folder
from couple.cli.options import Misuse


@options.executed
def run(
    file: Annotated[Path | None, typer.Argument(metavar="FILE.toml", help="The recipe.", show_default=False)] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="A.B=VALUE", help="Put a value, in TOML, in the place of one of the recipe."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and stop.")] = False,
    *,
    execution: options.Execution,
    device: options.Device = None,
    out: options.Out = None,
) -> int:
    """Run a recipe file: models, trajectories, edges and their weights, sweeps."""
    if file is None:
        raise Misuse("name a recipe, e.g. couple run recipes/pair.toml.")
    options.check_execution(execution)
    from couple import recipe

    asked = recipe.read(file, sets or [])
    if dry_run:
        print(recipe.plan(asked, device))
        return 0
    return recipe.run(asked, out or unused_folder([asked.name]), device, execution)
