"""The multi-view models that `couple edit` knows: where their weights are, how they load, what they are called with.

They differ in what they are told of a scene. Stable Virtual Camera sees the edited reference picture as an input view
and the poses as they are; MV-Adapter sees it and the directions of poses around an object; MVDream sees the directions
alone and draws from the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionModelWithProjection

import couple
from couple import Edge, Trajectory, latents, maps
from couple.backends import mv_adapter, mvdream, seva
from couple.backends.checkpoint import Repository
from couple.backends.editors import SD21, ancestral
from couple.backends.loading import load_as
from couple.backends.mvdream.loading import SAFETENSORS
from couple.scenes import Cameras

CLIP_H = Repository("laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "MIT", "config.json model.safetensors")


@dataclass(frozen=True)
class Family:
    """What distinguishes a multi-view model.

    Attributes:
        pipeline: its class.
        side: pixels of the square pictures that it was trained on.
        views: as many as it was trained on.
        prompted: whether it takes a prompt.
    """

    pipeline: Any
    side: int
    views: int
    prompted: bool


FAMILIES = {
    "seva": Family(seva.SevaPipeline, 576, 21, prompted=False),
    "mvdream": Family(mvdream.MVDreamPipeline, 256, 4, prompted=True),
    "mv-adapter": Family(mv_adapter.MVAdapterPipeline, 512, 6, prompted=True),
}


def load(
    name: str,
    model: str | Path | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Any:
    """Load a multi-view model, ready to be coupled with an editor of Stable Diffusion's latents.

    Stable Virtual Camera and MVDream run on the noise levels of Stable Diffusion, those of the editors; MV-Adapter on
    its own, which are noisier. All three take ancestral (DDPM) steps.

    Args:
        name: a key of `FAMILIES`.
        model: a folder written by `save_pretrained` or a hub id, used on its own scheduler; the published model if
            None.
        dtype: precision of the networks.
        device: where they run.

    Raises:
        FileNotFoundError: the weights are not on this machine and cannot be fetched; the message has the command.
        ValueError: `model` is not one of this family.
    """
    published: dict[str, Callable[[torch.dtype], Any]] = {
        "seva": _seva,
        "mvdream": _mvdream,
        "mv-adapter": _mv_adapter,
    }
    if model is None:
        return published[name](dtype).to(device)
    return load_as(FAMILIES[name].pipeline, model, dtype=dtype).to(device)


def arguments(
    name: str, pipeline: Any, picture: Image.Image, cameras: Cameras, reference: int, *, prompt: str = ""
) -> dict[str, Any]:
    """What the pipeline is called with to make all views of `cameras` from the edited picture of one.

    Args:
        name: a key of `FAMILIES`.
        pipeline: as loaded.
        picture: the edit of view `reference`; scaled to the size of the cameras if it is of another.
        cameras: V of them, for pictures of the size to be made.
        reference: the row of `cameras` that `picture` belongs to.
        prompt: what the views show, for those that take one.

    Returns:
        Keyword arguments without steps, guidance and generator.
    """
    size = {"height": cameras.height, "width": cameras.width}
    picture = picture.resize((cameras.width, cameras.height), Image.Resampling.LANCZOS)
    if name == "seva":
        order = rows(name, len(cameras), reference)
        others = sorted((k for k in range(len(cameras)) if k != reference), key=order.__getitem__)
        return {"images": [picture], "cameras": cameras[[reference]], "target_cameras": cameras[others], **size}
    ring = around_object(cameras, reference)
    if name == "mvdream":
        return {"prompt": prompt, "num_views": len(cameras), "cameras": ring, **size}
    image = {"image": picture} if pipeline.unet.reference else {}
    return {"prompt": prompt or "high quality", "cameras": ring, **image}


def rows(name: str, count: int, reference: int) -> list[int]:
    """For each of `count` views the row of the pipeline's state that is its: Stable Virtual Camera begins with inputs.

    Example:
        >>> rows("seva", 4, reference=2), rows("mvdream", 4, reference=2)
        ([1, 2, 0, 3], [0, 1, 2, 3])
    """
    if name != "seva":
        return list(range(count))
    return [0 if k == reference else k + (k < reference) for k in range(count)]


def size_multiple(pipeline: Any) -> int:
    """What height and width of the pictures must be multiples of."""
    if hasattr(pipeline, "adapter"):
        return pipeline.adapter.total_downscale_factor
    return pipeline.vae_scale_factor * 2 ** (len(pipeline.unet.config.channel_mult) - 1)


def joined(
    model: Trajectory,
    editor: Trajectory,
    rows: Sequence[int],
    *,
    weight: Any,
    size: tuple[int, int],
    editor_size: tuple[int, int],
) -> list[Edge]:
    """For each view k an edge between row `rows[k]` of the multi-view model and row k of the editor.

    Latents of different sizes are compared at the smaller one; those of different autoencoders by a bridge each way.

    Args:
        model: the trajectory of the multi-view model.
        editor: the trajectory of the editor.
        rows: see `rows`.
        weight: a number or a law of `couple.weights`.
        size: height and width in pixels of the pictures that `model` makes.
        editor_size: of those that `editor` makes.
    """
    networks = model.pipeline, editor.pipeline
    if len({latents.space(pipeline) for pipeline in networks}) > 1:
        there = maps.bridge(networks[0].vae, networks[1].vae, size=editor_size)
        back = maps.bridge(networks[1].vae, networks[0].vae, size=size)
        return [
            edge
            for k, row in enumerate(rows)
            for edge in (
                *couple.pair(model[row].through(there), editor[k], weight=weight, directed=True),
                *couple.pair(editor[k].through(back), model[row], weight=weight, directed=True),
            )
        ]
    sides = [
        tuple(pixels // pipeline.vae_scale_factor for pixels in of)
        for pipeline, of in zip(networks, (size, editor_size), strict=True)
    ]
    edges = []
    for k, row in enumerate(rows):
        views = model[row], editor[k]
        if sides[0] != sides[1]:
            views = [view.through(maps.resize(*min(sides))) for view in views]
        edges += couple.pair(*views, weight=weight)
    return edges


def around_object(cameras: Cameras, front: int) -> Cameras:
    """The cameras in the world of object models: the object at the origin, z up, camera `front` above the -y axis.

    The object is taken to be where the viewing axes pass nearest to each other.

    Raises:
        ValueError: the axes are parallel, or a camera stands at the object.
    """
    places, axes = cameras.c2w[:, :3, 3], cameras.c2w[:, :3, 2]
    across = torch.eye(3, dtype=torch.float64) - axes[:, :, None] * axes[:, None]
    total = across.sum(0)
    if torch.linalg.eigvalsh(total)[0] < 1e-4 * len(cameras):
        raise ValueError(
            "the cameras look in parallel, so that they have no object in common; take views from around an object, or "
            "--multiview seva."
        )
    middle = torch.linalg.solve(total, (across @ places[:, :, None]).sum(0)[:, 0])
    x, y = (places[front] - middle)[:2].tolist()
    c2w = cameras.c2w.clone()
    c2w[:, :3, 3] -= middle
    return Cameras(_upright_turn(x, y) @ c2w, cameras.K, cameras.height, cameras.width)


def _upright_turn(x: float, y: float) -> Tensor:
    """The turn about z, shape (4, 4), that brings the direction (x, y) to -y."""
    angle = -torch.pi / 2 - torch.atan2(torch.tensor(y, dtype=torch.float64), torch.tensor(x, dtype=torch.float64))
    turn = torch.eye(4, dtype=torch.float64)
    turn[:2, :2] = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    return turn


def _seva(dtype: torch.dtype) -> Any:
    path = seva.V1_1.path()
    vae = SD21.load(AutoencoderKL.from_pretrained, subfolder="vae", torch_dtype=dtype, use_safetensors=True)
    encoder = CLIP_H.load(CLIPVisionModelWithProjection.from_pretrained, dtype=dtype, use_safetensors=True)
    return seva.SevaPipeline.from_single_file(path, vae=vae, image_encoder=encoder, dtype=dtype)


def _mvdream(dtype: torch.dtype) -> Any:
    path = SAFETENSORS.path()
    pipeline = SD21.load(lambda base: mvdream.MVDreamPipeline.from_single_file(path, base=base, dtype=dtype))
    pipeline.scheduler = ancestral(pipeline.scheduler)
    return pipeline


def _mv_adapter(dtype: torch.dtype) -> Any:
    path = mv_adapter.I2MV_SD21.path()
    unchecked: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    base = SD21.load(StableDiffusionPipeline.from_pretrained, **unchecked, dtype=dtype, use_safetensors=True)
    return mv_adapter.load_pipeline(base, path, scheduler=ancestral(base.scheduler))
