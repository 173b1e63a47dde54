"""The work behind `couple image`: load, sample both rows in one run, measure, write."""

import math
import sys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from couple.backends import flux
from couple.backends.loading import load_text_to_image
from couple.bundled import COLOURS, SHAPES, TEXT_TO_IMAGE_DEFAULTS, text_to_image
from couple.cli import provenance
from couple.cli.coupling import ROWS, call_settings, edges, joined, trajectories
from couple.cli.folder import slug, whole_folder
from couple.cli.journal import journal
from couple.cli.machine import choose_device, choose_dtype, loading_device, quiet_libraries
from couple.cli.options import Request
from couple.cli.record import asked
from couple.cli.sampling import Sampler
from couple.cli.sheet import Row, contact_sheet
from couple.cli.stamp import finish
from couple.metrics import alignment


def draw(request: Request) -> None:
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
            pipeline = load_text_to_image(request.model or text_to_image(), **place)
            defaults = TEXT_TO_IMAGE_DEFAULTS if bundled else {}
            settings = call_settings(pipeline, request, defaults, flux.size_multiple(pipeline))
            seeds = [request.seed + i for i in range(len(request.prompts))]
            models = {"model": provenance.model(request.model or "bundled", pipeline, call=settings, seeds=seeds)}
        nodes = trajectories(pipeline, request, settings)
        joins = edges(request, nodes["coupled"])
        result = sampler([node for row in ROWS for node in nodes[row]], joins)
        with notes.stage("measure"):
            pictures = {row: [result[node].images[0] for node in nodes[row]] for row in ROWS}
            pairs = joined(joins, nodes["coupled"])
            aligned = {row: _alignment(pictures[row], pairs) for row in ROWS}
        with notes.stage("write"):
            for row in ROWS:
                for i, (prompt, picture) in enumerate(zip(request.prompts, pictures[row], strict=True), 1):
                    picture.save(folder / f"{row}-{i}-{slug(prompt)}.png")
            rows = [Row(row, f"centres {_spelled(aligned[row][0])}", pictures[row]) for row in ROWS]
            contact_sheet(rows, request.prompts).save(folder / "sheet.png")
        alignment = {row: {"centroid_distance": apart, "mask_iou": iou} for row, (apart, iou) in aligned.items()}
        record = provenance.written(
            "image",
            asked(request),
            models=models,
            edges=joins,
            sampled=[result],
            max_batch=request.max_batch,
            notes=notes,
            results={"alignment": alignment},
        )
        finish(folder, record)
    sampler.forget()
    for row in ROWS:
        distance, iou = aligned[row]
        overlap = "unknown" if iou is None else f"{iou:.2f}"
        print(f"{row:>9}: centres {_spelled(distance)}, overlap {overlap}")
    print(request.out / "sheet.png")


def _alignment(pictures: Sequence[Image.Image], pairs: Sequence[Sequence[int]]) -> tuple[float | None, float | None]:
    """Mean centroid distance in pixels and mean mask overlap over the coupled pairs; None if there is no object."""
    arrays = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    stack = torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255
    masks = alignment.object_mask(stack)
    first, second = (masks[[pair[end] for pair in pairs]] for end in (0, 1))
    distance = float(alignment.centroid_distance(first, second).mean())
    if not math.isfinite(distance):
        return None, None
    return round(distance, 3), round(float(alignment.mask_iou(first, second).mean()), 4)


def _spelled(distance: float | None) -> str:
    return "unknown" if distance is None else f"{distance:.1f} px apart"


def _note_foreign_prompts(prompts: tuple[str, ...]) -> None:
    for prompt in prompts:
        words = set(prompt.lower().split())
        if not (words & set(COLOURS) and words & set(SHAPES)):
            print(
                f"couple: the bundled model may not know {prompt!r}; it draws one shape ({', '.join(SHAPES)}) in one "
                f"colour ({', '.join(COLOURS)}). For other prompts give a --model.",
                file=sys.stderr,
            )
