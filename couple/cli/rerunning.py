"""The work behind `couple rerun`: read the record, do what it says, compare.

Equal versions, weights and machine give equal pictures, bit for bit. What is not equal is said first, so that
a difference in the pictures can be put down to it.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import imageio.v3
import numpy as np
from PIL import Image

from couple.cli import options, stamp
from couple.cli.edit import EditRequest
from couple.cli.edit import check as check_edit
from couple.cli.folder import RECORD
from couple.cli.options import Misuse, Request
from couple.cli.record import Record, request_of
from couple.cli.video import VideoRequest, check_video

#: A record lies at the root of its folder; the pictures of a scene are two folders further down.
_DEEPEST = 3
_SHOWN = 5


def again(file: Path, out: Path) -> int:
    """Repeat the run of `file` into `out`; return 0, or 1 if what came out is not what lies beside `file`."""
    record = stamp.read(file)
    old = next((folder for folder in file.absolute().parents[:_DEEPEST] if (folder / RECORD).is_file()), None)
    if old is not None and old.resolve() == out.resolve():
        raise ValueError(f"--out {out} is the run itself, which is kept to compare with; name another folder.")
    if record.batch.processes > 1 or record.request.get("parallel") is not None:
        from couple.cli import processes

        # Which forwards are merged, and so how numbers are rounded, depends on how the trajectories were divided.
        with processes.joined(f"couple rerun {file}", record.batch.processes) as elsewhere:
            return _again(record, file, old, elsewhere or out)
    return _again(record, file, old, out)


def _again(record: Record, file: Path, old: Path | None, out: Path) -> int:
    from couple.cli import provenance

    _use_threads(record.machine.threads)
    here = {"versions": provenance.versions(), "machine": provenance.machine("cpu").model_dump()}
    then = {"versions": record.versions, "machine": record.machine.model_dump() | {"device": here["machine"]["device"]}}
    _tell("differs from the record", _differences(then, here))
    _repeat(record, file, out)
    made = stamp.read(out / RECORD)
    _tell("differed from the record", _differences(_decisive(record), _decisive(made)))
    return _compared(old, out)


def _use_threads(count: int) -> None:
    """Take as many threads as then, if there are as many: how a sum is split among them decides about its last bit."""
    import torch

    if 1 <= count <= (os.cpu_count() or 1):
        torch.set_num_threads(count)


def _repeat(record: Record, file: Path, out: Path) -> None:
    """Carry out what a record asks for; each command's own checks judge it first."""
    try:
        if record.command == "image":
            request = request_of(Request, record, file, out)
            options.check_request(request, "couple image")
            from couple.cli.drawing import draw

            draw(request)
        elif record.command == "video":
            film_request = request_of(VideoRequest, record, file, out)
            check_video(film_request)
            from couple.cli.filming import film

            film(film_request)
        elif record.command == "edit":
            edit_request = request_of(EditRequest, record, file, out)
            check_edit(edit_request)
            from couple.cli.editing import run

            run(edit_request)
        else:
            from couple import recipe

            device = record.request.get("device")
            execution = options.Execution(parallel="trajectories" if record.batch.processes > 1 else None)
            asked = recipe.recorded(record.request, file)
            recipe.run(asked, out, device if isinstance(device, str) else None, execution)
    except Misuse as error:
        raise ValueError(f"{file} asks for what cannot be done: {error.format_message()}") from None


def _decisive(record: Record) -> dict[str, object]:
    """What decides about the samples beside what was asked; the versions have been told."""
    return {
        "device": record.machine.device,
        "models": {role: model.model_dump(exclude={"name"}) for role, model in record.models.items()},
        "inputs": record.inputs,
        "edges": record.edges,
        "processes": record.batch.processes,
    }


def _differences(then: object, now: object, place: str = "") -> Iterator[str]:
    """Each value that is not what it was, by its place."""
    if isinstance(then, dict) and isinstance(now, dict):
        for key in sorted({*then, *now}, key=str):
            yield from _differences(then.get(key), now.get(key), f"{place}.{key}".lstrip("."))
    elif then != now:
        yield f"{place} was {_short(then)}, is {_short(now)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:24]}..."


def _tell(what: str, differences: Iterator[str]) -> None:
    found = list(differences)
    if found:
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        print(f"couple: {what}: {'; '.join(found[:_SHOWN])}{more}.", file=sys.stderr)


def _compared(old: Path | None, out: Path) -> int:
    """Compare each new picture and clip with the old one of its name."""
    kinds = {".png", ".gif", ".mp4"}
    new = [path.relative_to(out) for path in sorted(out.rglob("*")) if path.suffix in kinds]
    both = [path for path in new if old is not None and (old / path).is_file()]
    if old is None or not both:
        print("nothing from then lies beside the record to compare with")
        return 0
    different = [f"{path} ({how})" for path in both if (how := _difference(old / path, out / path))]
    print(f"{len(both) - len(different)} of {len(both)} pictures and clips are equal, bit for bit")
    if different:
        more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
        print(f"couple: not equal: {', '.join(different[:_SHOWN])}{more}.", file=sys.stderr)
    return 1 if different else 0


def _difference(old: Path, new: Path) -> str | None:
    """How two pictures or clips differ; None if no pixel does."""
    try:
        then, now = _pixels(old), _pixels(new)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        return f"the old one cannot be read: {error!s:.80}"
    if then.shape != now.shape:
        return "another size"
    most = np.abs(then.astype(int) - now).max()
    return f"by up to {most} of 255" if most else None


def _pixels(path: Path) -> np.ndarray:
    if path.suffix == ".mp4":
        return imageio.v3.imread(path, plugin="FFMPEG")
    return imageio.v3.imread(path, plugin="pillow")
