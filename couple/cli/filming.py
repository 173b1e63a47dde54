"""The work behind `couple video`: load, sample both rows in one run, measure, write."""

import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from couple.backends import video
from couple.backends.loading import load_text_to_video
from couple.bundled import COLOURS, MOTIONS, SPRITES, TEXT_TO_VIDEO_DEFAULTS, text_to_video
from couple.cli import provenance
from couple.cli.clips import write_gif, write_mp4
from couple.cli.coupling import ROWS, call_settings, edges, joined, trajectories
from couple.cli.folder import slug, whole_folder
from couple.cli.journal import journal
from couple.cli.machine import choose_device, choose_dtype, loading_device, quiet_libraries
from couple.cli.montage import Clip, frames_sheet, side_by_side
from couple.cli.record import asked
from couple.cli.sampling import Sampler
from couple.cli.stamp import finish
from couple.cli.video import VideoRequest
from couple.metrics.clips import ClipClassifier, path_distance


def film(request: VideoRequest) -> None:
    """Carry out a request and print what came of it."""
    bundled = request.model is None
    device = choose_device(request.device)
    dtype = choose_dtype(request.dtype, device, bundled=bundled)
    if bundled:
        _note_foreign_prompts(request.prompts)
    with journal() as notes, whole_folder(request.out) as folder:
        sampler = Sampler(request, request.max_batch, device, request.out, folder, notes)
        quiet_libraries()
        with notes.stage("load"):
            place = {"dtype": dtype, "device": loading_device(device, request)}
            pipeline = load_text_to_video(request.model or text_to_video(), **place)
            settings = _settings(pipeline, request)
            seeds = [request.seed + i for i in range(len(request.prompts))]
            models = {"model": provenance.model(request.model or "bundled", pipeline, call=settings, seeds=seeds)}
        nodes = trajectories(pipeline, request, settings)
        joins = edges(request, nodes["coupled"])
        result = sampler([node for row in ROWS for node in nodes[row]], joins)
        with notes.stage("measure"):
            clips = {row: [result[node].frames[0] for node in nodes[row]] for row in ROWS}
            measured = _measured(request, clips, joined(joins, nodes["coupled"]))
            sayings = {row: f"paths {_spelled(measured['alignment'][row]['path_distance'])}" for row in ROWS}
        with notes.stage("write"):
            _write(folder, request, clips, sayings)
        record = provenance.written(
            "video",
            asked(request),
            models=models,
            edges=joins,
            sampled=[result],
            max_batch=request.max_batch,
            notes=notes,
            results=measured,
        )
        finish(folder, record)
    sampler.forget()
    for row in ROWS:
        print(f"{row:>9}: {sayings[row]}")
    print(request.out / "side-by-side.mp4")


def _settings(pipeline: Any, request: VideoRequest) -> dict[str, Any]:
    defaults = TEXT_TO_VIDEO_DEFAULTS if request.model is None else {}
    settings = call_settings(pipeline, request, defaults, video.size_multiple(pipeline))
    if request.frames is not None:
        multiple = video.frame_multiple(pipeline)
        if (request.frames - 1) % multiple:
            fitting = round((request.frames - 1) / multiple) * multiple + 1
            raise ValueError(
                f"--frames {request.frames}: this model's videos have one frame and a multiple of {multiple}; "
                f"try --frames {fitting}."
            )
        settings["num_frames"] = request.frames
    return settings | {"output_type": "pil"}


def _write(folder: Path, request: VideoRequest, clips: Mapping[str, Sequence[Clip]], notes: Mapping[str, str]) -> None:
    for row in ROWS:
        for i, (prompt, clip) in enumerate(zip(request.prompts, clips[row], strict=True), 1):
            name = f"{row}-{i}-{slug(prompt)}"
            write_mp4(folder / f"{name}.mp4", clip, request.fps)
            write_gif(folder / f"{name}.gif", clip, request.fps)
    write_mp4(folder / "side-by-side.mp4", side_by_side(clips, request.prompts, notes), request.fps)
    frames_sheet(clips, request.prompts).save(folder / "sheet.png")


def _measured(
    request: VideoRequest, clips: Mapping[str, Sequence[Clip]], pairs: Sequence[Sequence[int]]
) -> dict[str, Any]:
    videos = {row: torch.stack([_tensor(clip) for clip in clips[row]]) for row in clips}
    measured: dict[str, Any] = {
        "alignment": {row: {"path_distance": _path_distance(videos[row], pairs)} for row in videos}
    }
    if request.model is None:
        wanted = [_wanted(prompt) for prompt in request.prompts]
        measured["classifier"] = {row: _read(videos[row], wanted) for row in videos}
    return measured


def _tensor(clip: Clip) -> Tensor:
    """Shape (F, 3, H, W), float32 in [0, 1]."""
    stack = np.stack([np.asarray(frame.convert("RGB")) for frame in clip])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 255


def _path_distance(videos: Tensor, pairs: Sequence[Sequence[int]]) -> float | None:
    """Mean distance in pixels between the paths of coupled pairs; None if a frame has no object."""
    first, second = (videos[[pair[end] for pair in pairs]] for end in (0, 1))
    distance = float(path_distance(first, second).mean())
    return round(distance, 3) if math.isfinite(distance) else None


def _read(videos: Tensor, wanted: Sequence[tuple[str, str, str] | None]) -> list[dict[str, Any]]:
    """What the classifier sees in each video, and whether its prompt says so; None where the prompt is foreign."""
    return [
        {"seen": " ".join(seen), "right": None if asked is None else seen == asked}
        for seen, asked in zip(ClipClassifier.bundled().name(videos), wanted, strict=True)
    ]


def _wanted(prompt: str) -> tuple[str, str, str] | None:
    """Colour, shape and motion in the prompt; None unless it names just one of each."""
    text = f" {' '.join(re.findall(r'[a-z]+', prompt.lower()))} "
    colours, shapes, motions = (
        [name for name in names if f" {name} " in text] for names in (COLOURS, SPRITES, MOTIONS)
    )
    if len(colours) == len(shapes) == len(motions) == 1:
        return colours[0], shapes[0], motions[0]
    return None


def _note_foreign_prompts(prompts: Sequence[str]) -> None:
    for prompt in prompts:
        if _wanted(prompt) is None:
            print(
                f"couple: the bundled model may not know {prompt!r}; it films one shape ({', '.join(SPRITES)}) in one "
                f"colour ({', '.join(COLOURS)}) that {' or '.join(MOTIONS)}. For other prompts give a --model.",
                file=sys.stderr,
            )


def _spelled(distance: float | None) -> str:
    return "unknown" if distance is None else f"{distance:.1f} px apart"
