"""The folder a run leaves behind: whole, or not at all.

Everything is written into a hidden folder beside the wanted one, which takes its name at the very end, when all of it
is on the disk: after a power cut, too, there is a whole folder or none. The hidden folder is made before anything slow,
so that a place that cannot be written to is known at once.
"""

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

RECORD = "run.json"
#: What `couple view` adds to a run.
PAGE = "view.html"


def slug(text: str, longest: int = 40) -> str:
    """The text as part of a file name: lower case, words joined by dashes, "untitled" if nothing is left."""
    words = re.findall(r"\w+", text.lower())
    return "-".join(words)[:longest].rstrip("-") or "untitled"


def unused_folder(prompts: Sequence[str], parent: Path = Path("out")) -> Path:
    """A folder under `parent` named for the prompts, numbered when earlier runs have taken the name."""
    name = slug("-".join(prompts), 60)
    folder, number = parent / name, 1
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{number}"
    return folder


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder whose contents become `folder` if, and only if, the block ends well.

    An earlier run at `folder` is replaced, unless somebody has put other files there. On any exception the temporary
    folder and the parents made for it are removed and `folder` is as it was.

    Raises:
        ValueError: If `folder` is a file, holds something other than an earlier run, or cannot be written.
    """
    if folder.is_dir():
        if others := _others(folder):
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            raise ValueError(
                f"--out {folder} is a folder with other things in it, {others[0]}{more}; name a new one, e.g. "
                f"--out {folder / 'run'}."
            )
    elif os.path.lexists(folder):
        raise ValueError(f"--out {folder} is a file; name a folder, e.g. --out {folder.with_suffix('')}-run.")
    made = [parent for parent in folder.absolute().parents if not parent.exists()]
    temporary = _beside(folder)
    try:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            temporary.mkdir()
        except OSError as error:
            raise ValueError(
                f"--out {folder} cannot be made ({error.strerror}); name a folder you may write to, e.g. --out out/run."
            ) from error
        yield temporary
        for path in (*temporary.rglob("*"), temporary):
            _to_disk(path)
        _replace(folder, temporary)
        _to_disk(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        raise


def checkpoint_of(out: Path, number: int) -> Path:
    """Where a run that leaves `out` behind keeps the checkpoint of its sampling of that number, from 1."""
    return out.parent / f".{out.name}-{number}.checkpoint"


def finished(out: Path) -> bool:
    """Tell whether there is a run at `out`, and nothing with which it could go on."""
    return (out / RECORD).is_file() and not checkpoint_of(out, 1).exists()


def _others(folder: Path) -> list[str]:
    """The files in a folder that no earlier run has written there, by its record."""
    found = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    }
    try:
        ours = json.loads((folder / RECORD).read_bytes())["files"]
        return sorted(found - {RECORD, PAGE, *map(str, ours)})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return sorted(found - {RECORD}) or sorted(found)


def _beside(folder: Path) -> Path:
    return folder.parent / f".{folder.name}-{secrets.token_hex(4)}"


def _to_disk(path: Path) -> None:
    """Wait until a file, or the list of names that a folder is, has been written; Windows does the latter by itself."""
    if path.is_dir() and os.name == "nt":
        return
    # A file has to be open for writing there to be flushed.
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(folder: Path, new: Path) -> None:
    old = None
    if folder.exists():
        old = folder.rename(_beside(folder))
    try:
        new.rename(folder)
    except OSError:
        if old is not None:
            old.rename(folder)
        raise
    if old is not None:
        shutil.rmtree(old)
