"""What an editor is called with to edit all views of a scene at once: row k of its batch is view k.

Each sees what it was trained to see: edges or depths, the pictures themselves, cut-out foregrounds, a light, or a
coarse edit and the original. Whatever is scaled (depths as grey values) is scaled alike in all views.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from couple.backends.magic_fixup.pictures import fill_holes
from couple.backends.neural_gaffer import read_environment_map
from couple.bundled import CANNY_THRESHOLDS, HOLE_GREY
from couple.scenes import Scene
from couple.scenes.edits import CoarseEdit
from couple.scenes.pictures import SUFFIXES, read_picture, to_pictures

#: Pixels of the square pictures that an editor was trained on, where another size makes it worse.
SIDES = {"neural-gaffer": 256, "magic-fixup": 512}
#: Canny's thresholds with which ControlNets were trained.
_CANNY = (100, 200)
#: Exponent that turns 8-bit display values into linear radiance.
_GAMMA = 2.2


def arguments(
    name: str,
    scene: Scene,
    *,
    prompt: str = "",
    condition: str = "canny",
    strength: float = 0.8,
    background: Image.Image | None = None,
    environment_map: Tensor | None = None,
    coarse: CoarseEdit | None = None,
    bundled: bool = False,
) -> dict[str, Any]:
    """Keyword arguments for a call of the editor, without steps, guidance and generator.

    Args:
        name: a key of `editors.PIPELINES`.
        scene: V views, of the size to be made.
        prompt: what an editor that takes one is told, the same for all views.
        condition: what "controlnet" sees, "canny" or "depth"; depths are those of the scene.
        strength: of "img2img", the share of the noise that its start is given.
        background: what "ic-light" fits the foreground to, if it was loaded for that.
        environment_map: the light of "neural-gaffer", see `read_light`; a world whose z axis points up.
        coarse: the scene after a coarse edit; needed by "magic-fixup", and seen in place of the pictures by
            "instruct" and "img2img".
        bundled: whether the editor is a bundled one. Those were trained on finer edges and see holes of a coarse edit
            in grey; for the others holes are filled from around them.

    Raises:
        FileNotFoundError: a file of the scene is gone.
        ValueError: the scene has no depths or masks and the editor needs them, or a file is broken.
        ImportError: OpenCV or rembg is needed and not installed.
    """
    size = {"height": scene.cameras.height, "width": scene.cameras.width}
    prompts = [prompt] * len(scene)
    match name:
        case "controlnet":
            thresholds = CANNY_THRESHOLDS if bundled else _CANNY
            images = edges(scene.pictures(), thresholds) if condition == "canny" else nearness(scene)
            return {"prompt": prompts, "image": images, **size}
        case "instruct":
            return {"prompt": prompts, "image": _seen(scene, coarse, bundled)}
        case "img2img":
            return {"prompt": prompts, "image": _seen(scene, coarse, bundled), "strength": strength}
        case "ic-light":
            fitted = {} if background is None else {"background": background}
            alpha = torch.stack(_masks(scene)).float() if all(scene.masks) and scene.masks else None
            return {"prompt": prompts, "images": scene.pictures(background=None), "alpha": alpha, **fitted, **size}
        case "neural-gaffer":
            pictures = cut_out(scene.pictures(), _masks(scene)) if scene.masks else scene.pictures()
            return {"images": pictures, "environment_map": environment_map, "cameras": scene.cameras, **size}
        case "magic-fixup":
            if coarse is None:
                raise ValueError("magic-fixup makes a coarse edit natural; give `coarse`, see couple.scenes.moving.")
            return {"edits": coarse.rgba, "references": scene.pictures()}
    raise ValueError(f"editor {name!r} is unknown.")


def read_light(path: Path) -> Tensor:
    """Read an environment map: .hdr and .npy are linear, PNG and JPEG are taken back from display values.

    Returns:
        Radiance, shape (H, W, 3), float32.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be read as one.
    """
    if path.suffix.lower() not in SUFFIXES:
        return read_environment_map(path)
    pixels = np.asarray(read_picture(path).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels) ** _GAMMA


def edges(pictures: Sequence[Image.Image], thresholds: tuple[int, int]) -> list[Image.Image]:
    """Canny edges between two thresholds in 8-bit grey levels, white on black, as RGB pictures."""
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            "edges are found by OpenCV, which is not installed; run: pip install 'couple[edit]'"
        ) from error
    greys = [cv2.cvtColor(np.asarray(picture.convert("RGB")), cv2.COLOR_RGB2GRAY) for picture in pictures]
    return [Image.fromarray(cv2.Canny(grey, *thresholds)).convert("RGB") for grey in greys]


def nearness(scene: Scene) -> list[Image.Image]:
    """Inverse depths as grey values, white for the nearest point of all views and black for the farthest."""
    inverse = 1 / scene.distances()
    known = inverse[inverse > 0]
    if not len(known):
        raise ValueError("the depths of these views are all unknown.")
    low, high = known.min(), known.max()
    grey = ((inverse - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return [Image.fromarray(view).convert("RGB") for view in (grey * 255).round().byte().numpy()]


def cut_out(pictures: Sequence[Image.Image], masks: Sequence[Tensor]) -> list[Image.Image]:
    """The objects under the masks, on white."""
    white = Image.new("RGB", pictures[0].size, "white")
    stencils = [Image.fromarray(mask.numpy()) for mask in masks]
    return [Image.composite(picture, white, stencil) for picture, stencil in zip(pictures, stencils, strict=True)]


def _seen(scene: Scene, coarse: CoarseEdit | None, bundled: bool) -> list[Image.Image]:
    if coarse is None:
        return scene.pictures()
    if bundled:
        return to_pictures(coarse.over(HOLE_GREY))
    return to_pictures(fill_holes(coarse.rgba))


def _masks(scene: Scene) -> list[Tensor]:
    return [scene.mask(i) for i in range(len(scene))]
