"""The models that come with the package: where they lie, what they can draw and how they like to be called.

`text_to_image()` is the folder of a small `FluxPipeline` that draws one pastel shape, glowing softly, on a dark ground:
`FluxPipeline.from_pretrained(text_to_image())("a pink star", **TEXT_TO_IMAGE_DEFAULTS)`.

`text_to_video()` is the folder of a small `WanPipeline` that films one such sprite in motion:
`WanPipeline.from_pretrained(text_to_video())("a blue square moves left", **TEXT_TO_VIDEO_DEFAULTS)`.

Training scripts, worlds and scores are in `training/`.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

SHAPES = ("circle", "square", "triangle", "star", "heart", "moon")
"""The shapes the bundled text-to-image model knows by name."""

COLOURS = ("pink", "orange", "yellow", "green", "blue", "purple")
"""The colours the bundled models know by name; all share one luminance."""

SPRITES = SHAPES[:4]
"""The shapes the bundled video model knows by name."""

MOTIONS = ("moves left", "moves right", "moves up", "moves down", "bounces", "circles")
"""The motions the bundled video model knows by name."""

INSTRUCTIONS = ("change the light", "blend the moved object")
"""What the bundled editor by instruction can do: any new sun; shadows and ground for the pixels of a coarse move."""

CANNY_THRESHOLDS = (40, 100)
"""Thresholds of the Canny edges the bundled restyling editor was trained on, in 8-bit grey levels."""

HOLE_GREY = 0.5
"""Grey, in [0, 1], of the holes of a coarse edit, as the bundled editor by instruction was trained on them."""

TEXT_TO_IMAGE_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "height": 64,
        "width": 64,
        "max_sequence_length": 8,
        "num_inference_steps": 24,
        "true_cfg_scale": 2.0,
        "negative_prompt": "",
    }
)
"""Call arguments of the bundled pipeline; `FluxPipeline`'s own defaults are far outside its training."""

TEXT_TO_IMAGE_UNTIL = 0.2
"""Share of the steps in which to couple the bundled model: by then places are settled, shapes and colours are not."""

TEXT_TO_VIDEO_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "height": 32,
        "width": 32,
        "num_frames": 13,
        "max_sequence_length": 8,
        "num_inference_steps": 24,
        "guidance_scale": 2.5,
    }
)
"""Call arguments of the bundled video pipeline; `WanPipeline`'s own defaults are far outside its training."""

TEXT_TO_VIDEO_UNTIL = 0.3
"""Share of the steps in which to couple the bundled video model: by then paths are settled, shapes are not."""

VIEWS = 6
"""How many views the bundled multi-view model draws at once."""

VIEWS_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"num_inference_steps": 24, "guidance_scale": 1.0, "min_guidance_scale": 1.0}
)
"""Call arguments of the bundled multi-view pipeline, which needs no guidance."""

INSTRUCT_DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {"num_inference_steps": 24, "guidance_scale": 1.01, "image_guidance_scale": 1.6}
)
"""Call arguments of the bundled editor by instruction; guidance by the picture takes a `guidance_scale` above 1."""

RESTYLE_DEFAULTS: Mapping[str, Any] = MappingProxyType({"num_inference_steps": 24, "guidance_scale": 1.5})
"""Call arguments of the bundled restyling editor."""


def text_to_image() -> Path:
    """Folder of the bundled text-to-image pipeline, for `FluxPipeline.from_pretrained`."""
    return Path(__file__).parent / "text_to_image"


def text_to_video() -> Path:
    """Folder of the bundled text-to-video pipeline, for `WanPipeline.from_pretrained`."""
    return Path(__file__).parent / "text_to_video"


def views() -> Path:
    """Folder of the bundled multi-view model, for `couple.backends.seva.SevaPipeline.from_pretrained`."""
    return Path(__file__).parent / "views"


def instruct() -> Path:
    """Folder of the bundled editor by instruction, for `StableDiffusionInstructPix2PixPipeline.from_pretrained`."""
    return Path(__file__).parent / "instruct"


def restyle() -> Path:
    """Folder of the bundled restyling editor, for `StableDiffusionControlNetPipeline.from_pretrained`."""
    return Path(__file__).parent / "restyle"


def scene() -> Path:
    """Folder of the bundled scene, for `couple.scenes.load`."""
    return Path(__file__).parent / "scene"
