"""The three bundled editing models and how they are called: what every way of editing a scene is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionControlNetPipeline, StableDiffusionInstructPix2PixPipeline

from couple import bundled
from couple.backends.seva import SevaPipeline


@dataclass(frozen=True, eq=False)
class Model:
    """A pipeline and the arguments it is called with besides what it is shown, its noise and its steps."""

    pipeline: Any
    call: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Models:
    """What edits scenes of the block world.

    Attributes:
        views: the multi-view model.
        editors: the editors of single pictures, by name: "instruct" and "restyle".
        steps: denoising steps of every call, equal for all models and methods.
    """

    views: Model
    editors: Mapping[str, Model]
    steps: int


def load(steps: int, folders: Mapping[str, Path] | None = None) -> Models:
    """Load the bundled models.

    Args:
        steps: of every call.
        folders: other folders for some of "views", "instruct" and "restyle".

    Raises:
        OSError: a folder is not there or not whole.
    """
    places = {"views": bundled.views(), "instruct": bundled.instruct(), "restyle": bundled.restyle(), **(folders or {})}
    calls = {
        "views": bundled.VIEWS_DEFAULTS,
        "instruct": bundled.INSTRUCT_DEFAULTS,
        "restyle": bundled.RESTYLE_DEFAULTS,
    }
    kinds: dict[str, Any] = {
        "views": SevaPipeline,
        "instruct": StableDiffusionInstructPix2PixPipeline,
        "restyle": StableDiffusionControlNetPipeline,
    }
    made = {}
    for name, kind in kinds.items():
        pipeline = kind.from_pretrained(places[name], dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        made[name] = Model(pipeline, {key: value for key, value in calls[name].items() if key != "num_inference_steps"})
    return Models(made.pop("views"), made, steps)
