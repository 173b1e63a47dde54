"""The work behind `couple image`: load, sample both rows in one run, measure, write.

The uncoupled pictures are trajectories without an edge in the same run: the rows differ by the coupling and
by nothing else, and one progress bar covers both.
"""

import math
import sys
import time
import warnings
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from transformers.utils import logging as transformers_logging

import couple
from couple import Edge, Trajectory, weights
from couple.backends import flux
from couple.backends.loading import load_text_to_image
from couple.bundled import COLOURS, SHAPES, TEXT_TO_IMAGE_DEFAULTS, text_to_image
from couple.cli.folder import RECORD, slug, whole_folder
from couple.cli.image import Request
from couple.cli.record import run_record
from couple.cli.sheet import Row, contact_sheet
from couple.metrics import alignment

ROWS = ("uncoupled", "coupled")


def draw(request: Request) -> None:
    """Carry out a request and print what came of it."""
    started = time.perf_counter()
    device = _device(request.device)
    small = request.model is None or device.type == "cpu"
    dtype = getattr(torch, request.dtype or ("float32" if small else "bfloat16"))
    if request.model is None:
        _note_foreign_prompts(request.prompts)
    _quiet_libraries()
    with whole_folder(request.out) as folder:
        pipeline = load_text_to_image(request.model or text_to_image(), dtype=dtype, device=device)
        settings = _settings(pipeline, request)
        nodes = {row: _trajectories(pipeline, request, settings, row) for row in ROWS}
        edges = _edges(request, nodes["coupled"])
        everyone = [node for row in ROWS for node in nodes[row]]
        result = couple.sample(everyone, edges, max_batch=request.max_batch)

        pictures = {row: [result[node].images[0] for node in nodes[row]] for row in ROWS}
        joined = [[nodes["coupled"].index(node) for node in edge.trajectories] for edge in edges]
        aligned = {row: _alignment(pictures[row], joined) for row in ROWS}
        for row in ROWS:
            for i, (prompt, picture) in enumerate(zip(request.prompts, pictures[row], strict=True), 1):
                picture.save(folder / f"{row}-{i}-{slug(prompt)}.png")
        rows = [Row(row, f"centres {_spelled(aligned[row][0])}", pictures[row]) for row in ROWS]
        contact_sheet(rows, request.prompts).save(folder / "sheet.png")
        record = run_record(
            request,
            pipeline,
            settings,
            alignment={
                row: {"centroid_distance": distance, "mask_iou": iou} for row, (distance, iou) in aligned.items()
            },
            forwards=result.forwards,
            seconds=round(time.perf_counter() - started, 2),
        )
        (folder / RECORD).write_text(record, encoding="utf-8")
    for row in ROWS:
        distance, iou = aligned[row]
        overlap = "unknown" if iou is None else f"{iou:.2f}"
        print(f"{row:>9}: centres {_spelled(distance)}, overlap {overlap}")
    print(request.out / "sheet.png")


def _alignment(pictures: list[Image.Image], joined: list[list[int]]) -> tuple[float | None, float | None]:
    """Mean centroid distance in pixels and mean mask overlap over the coupled pairs; None if there is no object."""
    arrays = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    stack = torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 255
    masks = alignment.object_mask(stack)
    first, second = (masks[[pair[end] for pair in joined]] for end in (0, 1))
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


def _quiet_libraries() -> None:
    """Leave the screen to our own progress bar and sentences."""
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module=r"(torch|diffusers|transformers|huggingface_hub)\b")


def _device(name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise ValueError(f"--device {name} cannot be used here ({reason}); try --device cpu.") from error
    return device


def _settings(pipeline: Any, request: Request) -> dict[str, Any]:
    """What the pipeline is called with beside prompt and generator."""
    settings = dict(TEXT_TO_IMAGE_DEFAULTS) if request.model is None else {}
    if request.steps is not None:
        settings["num_inference_steps"] = request.steps
    if request.guidance is not None:
        settings |= flux.guidance_kwargs(pipeline, request.guidance)
    if request.size is not None:
        settings["width"], settings["height"] = request.size
        multiple = flux.size_multiple(pipeline)
        if any(length % multiple for length in request.size):
            fitting = "x".join(str(max(round(length / multiple), 1) * multiple) for length in request.size)
            raise ValueError(
                f"--size {request.size[0]}x{request.size[1]}: this model's width and height are multiples of "
                f"{multiple}; try --size {fitting}."
            )
    return settings


def _trajectories(pipeline: Any, request: Request, settings: dict[str, Any], row: str) -> list[Trajectory]:
    return [
        Trajectory(
            pipeline,
            name=f"{prompt} ({row})",
            prompt=prompt,
            generator=torch.Generator().manual_seed(request.seed + i),
            **settings,
        )
        for i, prompt in enumerate(request.prompts)
    ]


def _edges(request: Request, nodes: list[Trajectory]) -> list[Edge]:
    weight = getattr(weights, request.law)(request.weight)
    if request.until < 1:
        weight = weights.window(weight, 0.0, request.until)
    if request.graph == "pair":
        return couple.pair(*nodes, weight=weight)
    if request.graph == "star":
        return couple.star(nodes[0], nodes[1:], weight=weight, normalize=True)
    return getattr(couple, request.graph)(nodes, weight=weight, normalize=True)
