"""The models that come with the package: where they lie, what they can draw and how they like to be called.

`text_to_image()` is the folder of a small `FluxPipeline` that draws one pastel shape, glowing softly, on a dark ground:
`FluxPipeline.from_pretrained(text_to_image())("a pink star", **TEXT_TO_IMAGE_DEFAULTS)`. Its training script, its
picture world and its scores are in `training/`.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

SHAPES = ("circle", "square", "triangle", "star", "heart", "moon")
"""The shapes the bundled model knows by name."""

COLOURS = ("pink", "orange", "yellow", "green", "blue", "purple")
"""The colours the bundled model knows by name; all share one luminance."""

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


def text_to_image() -> Path:
    """Folder of the bundled text-to-image pipeline, for `FluxPipeline.from_pretrained`."""
    return Path(__file__).parent / "text_to_image"
