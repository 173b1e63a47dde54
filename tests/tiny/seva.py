"""Tiny Stable Virtual Camera pipelines: fewer views than the network takes frames, and more of them."""

import functools
import math
from typing import Any

import torch
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from couple.backends.seva import SevaModel, SevaPipeline, native_scheduler, shared_scheduler
from couple.scenes.cameras import Cameras, intrinsics
from tests.tiny.building import Family, module, picture
from tests.tiny.stable_diffusion import autoencoder

#: Frames of the tiny network, side of its pictures in pixels, of its latents.
FRAMES, SIDE, LATENT = 4, 16, 8


@functools.cache
def network() -> SevaModel:
    """A network of four frames, narrow but of full depth."""
    return module(SevaModel, model_channels=32, num_frames=FRAMES, num_head_channels=32, context_dim=16)


@functools.cache
def eyes() -> CLIPVisionModelWithProjection:
    """A CLIP vision encoder with a 16-wide projection."""
    config = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=16,
        patch_size=8,
        projection_dim=16,
    )
    return module(CLIPVisionModelWithProjection, config)


def pipeline(scheduler: Any) -> SevaPipeline:
    """The parts above as a pipeline, with a scheduler of its own."""
    built = SevaPipeline(autoencoder(), eyes(), network(), scheduler)
    built.set_progress_bar_config(disable=True)
    return built


def seva() -> SevaPipeline:
    """DDPM on Stable Diffusion's levels."""
    return pipeline(shared_scheduler())


def seva_native() -> SevaPipeline:
    """Euler on the model's own levels."""
    return pipeline(native_scheduler())


def orbit(views: int, start: float = 0.0) -> Cameras:
    """Cameras on a quarter of a circle of radius 2, looking at its centre."""
    poses = []
    for angle in torch.linspace(start, start + math.pi / 2, views, dtype=torch.float64).tolist():
        pose = torch.eye(4, dtype=torch.float64)
        pose[0, 0], pose[0, 2], pose[2, 0], pose[2, 2] = (
            math.cos(angle),
            -math.sin(angle),
            math.sin(angle),
            math.cos(angle),
        )
        pose[:3, 3] = -2 * pose[:3, 2]
        poses.append(pose)
    return Cameras(torch.stack(poses), intrinsics(math.radians(54), SIDE, SIDE), SIDE, SIDE)


def call(k: int, inputs: int, targets: int, **changes: Any) -> dict[str, Any]:
    """Arguments of the k-th call, with its own pictures, without a generator."""
    cameras = orbit(inputs + targets, start=0.1 * k)
    return {
        "images": [picture(10 * k + i, SIDE) for i in range(inputs)],
        "cameras": cameras[:inputs],
        "target_cameras": cameras[inputs:],
        "num_inference_steps": 3,
        "output_type": "latent",
        **changes,
    }


FAMILIES = {
    "seva": Family(seva, lambda k: call(k, 1, 2)),
    "seva_windows": Family(
        seva_native, lambda k: call(k, 2, 3, num_inference_steps=2, guidance="temporal", output_type="np")
    ),
}
