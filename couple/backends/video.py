"""Text-to-video pipelines: which ones they are, how long and how large their videos may be.

diffusers names the steps of an autoencoder differently from family to family; here they are read under every name.
"""

import inspect
import math
from typing import Any

_TEMPORAL = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio", "vae_temporal_scale_factor")
_SPATIAL = ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_spatial_scale_factor", "vae_scale_factor")


def films_prompts(pipeline: type) -> bool:
    """Whether a pipeline class makes a video of `num_frames` frames from a prompt and needs nothing else."""
    parameters = inspect.signature(pipeline.__call__).parameters
    needed = {name for name, value in parameters.items() if value.default is inspect.Parameter.empty}
    return {"prompt", "num_frames"} <= set(parameters) and needed <= {"self", "prompt", "args", "kwargs"}


def frame_multiple(pipeline: Any) -> int:
    """What the number of frames after the first must be a multiple of: the frames in one frame of the latents."""
    return _first(pipeline, _TEMPORAL)


def size_multiple(pipeline: Any) -> int:
    """What height and width must be multiples of, in pixels: what one token covers, and 16, on which many insist."""
    network = getattr(pipeline, "transformer", None) or getattr(pipeline, "transformer_2", None)
    patch = 1 if network is None else network.config.get("patch_size", 1)
    return math.lcm(16, _first(pipeline, _SPATIAL) * (patch if isinstance(patch, int) else patch[-1]))


def _first(pipeline: Any, names: tuple[str, ...]) -> int:
    return next((getattr(pipeline, name) for name in names if hasattr(pipeline, name)), 1)
