"""`couple view`: a run folder as a page in the browser.

The page is a file in the folder, without a server and without anything from elsewhere; `couple.cli.page` makes it.
"""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from couple.cli.folder import PAGE
from couple.cli.options import Misuse


def view(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What a run left behind, e.g. out/demo.")],
    no_open: Annotated[bool, typer.Option("--no-open", help="Only write the page.")] = False,
) -> None:
    """Look at a run: samples side by side, under a slider, blinking, subtracted; its filmstrip, trace and record."""
    if not folder.is_dir():
        raise Misuse(f"{folder} is no folder; name what a run left behind, e.g. couple view out/demo.")
    from couple import atomic
    from couple.cli import page

    path = folder / PAGE
    try:
        atomic.write(path, page.page(folder).encode("utf-8", "replace"))
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error.strerror}); copy the folder to a place of yours.") from error
    print(path)
    if not no_open:
        webbrowser.open(path.absolute().as_uri())
