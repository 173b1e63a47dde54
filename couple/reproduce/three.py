"""Three models coupled: two editors around a multi-view model, and a picture with the first frame of a video.

The editing models share one latent space, so three of them can be joined directly: the scene is painted in another
style by one editor, put under another sun by a second one that is shown what the first made of each view, and made of
one piece by the multi-view model between them. The pictures and the videos of the bundled text models live in different
latent spaces, of different sizes; they are joined by a bridge, through pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import couple
from couple import maps
from couple.backends import flux
from couple.bundled import INSTRUCTIONS
from couple.metrics.alignment import centroid_distance, object_mask
from couple.metrics.clips import ClipClassifier
from couple.metrics.consistency import reprojection_error
from couple.metrics.faithfulness import RenderClassifier
from couple.reproduce.models import Models
from couple.reproduce.pairs import Words
from couple.reproduce.scenes import Case
from couple.weights import Law

MODELS = "restyle", "multi-view", "instruct"
"""The three editing models, in the order of the chain."""


def three_editing_models(
    models: Models, case: Case, seed: int, weight: float | Law | None
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Restyle and relight a scene at once.

    Args:
        models: the models.
        case: a scene of the task "restyle".
        seed: of all noise.
        weight: of the edges; None for no edges.

    Returns:
        "error", the reprojection error of the multi-view sample, and "apart", the mean absolute difference between the
        samples of two of the models, both in 0 to 255; and the views that each model made, by name.
    """

    def trajectory(name: str, stream: int, call: Mapping[str, Any]) -> couple.Trajectory:
        model = models.views if name == "multi-view" else models.editors[name]
        generator = torch.Generator().manual_seed(10 * seed + stream)
        call = {**model.call, **call, "num_inference_steps": models.steps, "output_type": "pt"}
        return couple.Trajectory(model.pipeline, name=name, generator=generator, **call)

    alone = trajectory("restyle", 0, case.shown)
    painted = torch.as_tensor(couple.sample([alone], progress=False)[alone].images).clamp(0, 1)
    told = {"prompt": [INSTRUCTIONS[0]] * len(painted), "image": painted}
    first = trajectory("instruct", 1, told)
    lit = torch.as_tensor(couple.sample([first], progress=False)[first].images).clamp(0, 1)
    posed = {"images": [lit[0]], "cameras": case.cameras[[0]], "target_cameras": case.cameras[1:]}

    nodes = [trajectory("restyle", 0, case.shown), trajectory("multi-view", 2, posed), trajectory("instruct", 1, told)]
    edges = []
    if weight is not None:
        for k in range(len(painted)):
            edges += couple.chain([node[k] for node in nodes], weight=weight)
    result = couple.sample(nodes, edges, progress=False)
    made = {node.name: torch.as_tensor(result[node].images).float().clamp(0, 1) for node in nodes}
    gaps = [(a - b).abs().mean() for a, b in itertools.combinations(made.values(), 2)]
    error = reprojection_error(made["multi-view"], case.depth, case.cameras)
    return {"error": float(error), "apart": 255 * float(torch.stack(gaps).mean())}, made


def picture_and_video(
    image: Any, video: Any, calls: tuple[Mapping[str, Any], Mapping[str, Any]], words: Words, seed: int, weight: Any
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Draw a sprite, and film another one that begins where the first one is.

    Args:
        image: the text-to-image pipeline.
        video: the text-to-video pipeline.
        calls: how they like to be called.
        words: colour and shape of the picture's sprite, and colour, shape and motion of the video's.
        seed: of all noise.
        weight: of the edges, one each way; None for no edges.

    Returns:
        "distance" between the sprites of the picture and of the first frame, in pixels of a picture 64 wide, and
        "accuracy", the share of the two whose prompt a classifier reads off; and the picture and the first frame.
    """
    prompts = f"a {' '.join(words[:2])}", f"a {' '.join(words[2:])}"
    nodes = [
        couple.Trajectory(
            pipeline,
            name=name,
            prompt=prompt,
            generator=torch.Generator().manual_seed(2 * seed + side),
            output_type="pt",
            **call,
        )
        for side, (pipeline, name, prompt, call) in enumerate(
            zip((image, video), ("picture", "video"), prompts, calls, strict=True)
        )
    ]
    picture, film = nodes
    edges = []
    if weight is not None:
        sizes = [(call["height"], call["width"]) for call in calls]
        sides = (side // image.vae_scale_factor for side in sizes[0])
        there = picture.through(partial(flux.unpack, **dict(zip(("height", "width"), sides, strict=True))))
        there = there.through(maps.bridge(image.vae, video.vae, size=sizes[1]))
        back = film.frames(0).through(maps.bridge(video.vae, image.vae, size=sizes[0])).through(flux.pack)
        edges = couple.pair(there, film.frames(0), weight=weight, directed=True)
        edges += couple.pair(back, picture, weight=weight, directed=True)
    result = couple.sample(nodes, edges, progress=False)
    drawn = result[picture].images.float().clamp(0, 1)
    filmed = result[film].frames.float().clamp(0, 1)
    first = F.interpolate(filmed[:, 0], drawn.shape[2:], mode="bilinear")
    right = [
        RenderClassifier.bundled().name(drawn)[0] == words[:2],
        ClipClassifier.bundled().name(filmed)[0] == words[2:],
    ]
    distance = centroid_distance(object_mask(drawn), object_mask(first))
    return {"distance": float(distance), "accuracy": sum(right) / 2}, {"picture": drawn, "first frame": first}
