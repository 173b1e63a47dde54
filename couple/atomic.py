"""A file that is whole or not there: who looks while it is written, or after a crash, finds one or the other."""

import os
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Write a file beside `path` and give it that name when it is on the disk; what was there is replaced.

    The folder is not flushed: where power fails before the new name is on the disk, what was there is there still.
    """
    beside = path.with_name(f".{path.name}.part")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
