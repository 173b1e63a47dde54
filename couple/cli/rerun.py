"""`couple rerun`: a run made again from what it wrote down, and compared with itself.

Here is the command line; `couple.cli.rerunning` does the work.
"""

from pathlib import Path
from typing import Annotated

import typer

from couple.cli import options
from couple.cli.folder import RECORD, unused_folder
from couple.cli.options import Misuse


def rerun(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="The folder of a run, or a file of it.", show_default=False),
    ] = None,
    out: options.Out = None,
) -> int:
    """Make a run again, say what differs from then, and compare the pictures with those beside FILE."""
    if file is None:
        raise Misuse("name the record of a run, e.g. couple rerun out/run/run.json.")
    if (file / RECORD).is_file():
        file /= RECORD
    from couple.cli.rerunning import again

    return again(file, out or unused_folder([file.absolute().parent.name, "again"]))
