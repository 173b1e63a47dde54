"""The record of a run inside its pictures and clips, so that one of them is enough to repeat it.

PNG: a compressed iTXt chunk named `couple`. GIF: the comment. MP4: the comment of its metadata. Pixels are not touched:
the record is added to the finished file. What is read back may come from anywhere, and is handed to
`couple.cli.record.parse` as text, within its limits.
"""

from __future__ import annotations

import os
import struct
import subprocess
import warnings
import zlib
from pathlib import Path
from typing import BinaryIO

from imageio_ffmpeg import get_ffmpeg_exe
from PIL import Image

from couple.cli.folder import RECORD
from couple.cli.record import MAX_RECORD, Record, parse

KEYWORD = "couple"
# Where an MP4 keeps its comment: boxes within boxes; `meta` has four bytes of version before its first.
_COMMENT = (b"moov", b"udta", b"meta", b"ilst", b"\xa9cmt", b"data")
_MOST_BOXES = 10_000


def finish(folder: Path, record: Record) -> None:
    """Write the record into a folder of results, as `run.json` and into every PNG, GIF and MP4 in it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    record = record.model_copy(update={"files": [path.relative_to(folder).as_posix() for path in paths]})
    (folder / RECORD).write_text(record.text() + "\n", encoding="utf-8")
    text = record.text(indent=None)
    stamps = {".png": _stamp_png, ".gif": _stamp_gif, ".mp4": _stamp_mp4}
    for path in paths:
        if path.suffix in stamps:
            stamps[path.suffix](path, text)


def read(path: Path) -> Record:
    """Read the record in a run.json, PNG, GIF or MP4.

    Raises:
        ValueError: there is no such file, or no record in it that can be used; in one sentence.
    """
    readers = {".json": _read_json, ".png": _read_picture, ".gif": _read_picture, ".mp4": _read_mp4}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path} is none of {', '.join(readers)}; give the run.json of a run, a picture or a clip.")
    if not path.is_file():
        hint = f"; give {path / RECORD}" if path.is_dir() else "; check the path"
        raise ValueError(f"{path} is no file{hint}.")
    text = reader(path)
    if text is None:
        raise ValueError(f"{path} holds no record; give a file as `couple` wrote it, or the run.json beside it.")
    return parse(text, path)


def _stamp_png(path: Path, text: str) -> None:
    data = path.read_bytes()
    # The signature has 8 bytes, the header 25; then any chunk may come.
    body = b"iTXt" + KEYWORD.encode() + b"\0\1\0\0\0" + zlib.compress(text.encode(), 9)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(data[:33] + chunk + data[33:])


def _stamp_gif(path: Path, text: str) -> None:
    data = path.read_bytes()
    # The header has 13 bytes; its table of colours, if it says that it has one, follows.
    place = 13 + (3 * 2 ** ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    comment = text.encode()
    blocks = [comment[i : i + 255] for i in range(0, len(comment), 255)]
    extension = b"\x21\xfe" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"
    path.write_bytes(data[:place] + extension + data[place:])


def _stamp_mp4(path: Path, text: str) -> None:
    notes, stamped = path.with_suffix(".ffmetadata"), path.with_suffix(".stamped.mp4")
    escaped = "".join(f"\\{letter}" if letter in "=;#\\\n" else letter for letter in text)
    notes.write_text(f";FFMETADATA1\ncomment={escaped}\n", encoding="utf-8")
    quiet = ["-hide_banner", "-loglevel", "error", "-y"]
    inputs = ["-i", path, "-f", "ffmetadata", "-i", notes, "-map", "0", "-map_metadata", "1"]
    same = ["-c", "copy", "-fflags", "+bitexact", "-movflags", "+faststart"]
    done = subprocess.run([get_ffmpeg_exe(), *quiet, *inputs, *same, stamped], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"the record could not be written into {path.name} ({done.stderr.strip()[:200]}).")
    notes.unlink()
    os.replace(stamped, path)


def _read_json(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_RECORD + 1)


def _read_picture(path: Path) -> str | None:
    """The record of a PNG or GIF; its pixels are not read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG", "GIF"]) as picture:
                found = picture.info.get(KEYWORD if picture.format == "PNG" else "comment")
    except (OSError, ValueError, SyntaxError, EOFError, Warning, Image.DecompressionBombError, struct.error) as error:
        raise ValueError(f"{path} cannot be used as a picture ({error!s:.200}).") from error
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else found


def _read_mp4(path: Path) -> str | None:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        begin = 0
        for kind in _COMMENT:
            found = _box(file, begin, end, kind)
            if found is None:
                return None
            begin, end = found
            begin += 4 if kind == b"meta" else 0
        # Eight bytes of type and language come first.
        file.seek(begin + 8)
        return file.read(min(max(end - begin - 8, 0), MAX_RECORD + 1)).decode("utf-8", "replace")


def _box(file: BinaryIO, begin: int, end: int, kind: bytes) -> tuple[int, int] | None:
    """Where the contents of the first box of that kind lie between two places of a file."""
    for _ in range(_MOST_BOXES):
        if begin + 8 > end:
            return None
        file.seek(begin)
        size, name = struct.unpack(">I4s", file.read(8))
        header = 8
        if size == 1 and begin + 16 <= end:
            size, header = struct.unpack(">Q", file.read(8))[0], 16
        elif size == 0:
            size = end - begin
        if size < header or begin + size > end:
            return None
        if name == kind:
            return begin + header, begin + size
        begin += size
    return None
