"""The pipelines that are timed: diffusers' own classes with random weights, as large as the released models or tiny.

Tiny ones are narrow but not shallow: it is the number of operations that makes a small model wait for launches.

Prompts are given as embeddings and results stay latents, so there are no text encoders and no autoencoders: what is
measured is the denoising. Weights are float32 on the CPU and bfloat16 on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from torch import Tensor

import couple


@dataclass(frozen=True)
class Subject:
    """A pipeline and its calls.

    Attributes:
        pipeline: with one network.
        network: that one.
        settings: keyword arguments of every call, without the prompt.
        embeddings: shape, without the batch axis, of each argument that stands for a prompt.
    """

    pipeline: Any
    network: Any
    settings: Mapping[str, Any]
    embeddings: Mapping[str, tuple[int, ...]]

    def call(self, k: int, **changes: Any) -> dict[str, Any]:
        """Keyword arguments of the k-th call: a prompt and noise of its own."""
        own = torch.Generator().manual_seed(1000 + k)
        prompt = {name: self._embedding(shape, own) for name, shape in self.embeddings.items()}
        return {**self.settings, **prompt, "generator": torch.Generator().manual_seed(k), **changes}

    def calls(self, count: int, **changes: Any) -> dict[str, Any]:
        """The first `count` calls as one stock call with as many prompts."""
        single = [self.call(k, **changes) for k in range(count)]
        prompts = {name: torch.cat([call[name] for call in single]) for name in self.embeddings}
        return {**single[0], **prompts, "generator": [call["generator"] for call in single]}

    def trajectories(self, count: int, **changes: Any) -> list[couple.Trajectory]:
        """The first `count` calls as trajectories."""
        return [couple.Trajectory(self.pipeline, **self.call(k, **changes)) for k in range(count)]

    def _embedding(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        weight = next(self.network.parameters())
        return torch.randn(1, *shape, generator=generator).to(weight.device, weight.dtype)


def flux(full: bool, **settings: Any) -> Subject:
    """FLUX.1-dev at 1024 x 1024, or six blocks of width 64 at 256 x 256; guidance is embedded."""
    size: dict[str, Any] = {"guidance_embeds": True}
    if not full:
        size |= {"num_layers": 2, "num_single_layers": 4, "attention_head_dim": 16, "num_attention_heads": 4}
        size |= {"joint_attention_dim": 32, "pooled_projection_dim": 32, "axes_dims_rope": (4, 4, 8)}
    network = _network(FluxTransformer2DModel, full, **size)
    parts: dict[str, Any] = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    parts["scheduler"] = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    pipeline = FluxPipeline(transformer=network, **parts)
    side = 1024 if full else 256
    config = network.config
    embeddings = {
        "prompt_embeds": (512 if full else 16, config.joint_attention_dim),
        "pooled_prompt_embeds": (config.pooled_projection_dim,),
    }
    return _subject(pipeline, network, embeddings, {"height": side, "width": side, **_steps(full), **settings})


def stable_diffusion(full: bool, **settings: Any) -> Subject:
    """Stable Diffusion 2.1 at 768 x 768, or its UNet at a tenth of the width, 128 x 128; guidance doubles the batch."""
    size: dict[str, Any] = {
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    }
    if not full:
        size |= {"attention_head_dim": 8, "cross_attention_dim": 32, "norm_num_groups": 8}
        size |= {"block_out_channels": (32, 32, 64, 64)}
    network = _network(UNet2DConditionModel, full, sample_size=96 if full else 16, **size)
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    parts: dict[str, Any] = dict.fromkeys(("vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"))
    parts["scheduler"] = DDIMScheduler(
        **betas, prediction_type="v_prediction", set_alpha_to_one=False, clip_sample=False
    )
    pipeline = StableDiffusionPipeline(unet=network, requires_safety_checker=False, **parts)
    shape = (77, network.config.cross_attention_dim)
    embeddings = {"prompt_embeds": shape, "negative_prompt_embeds": shape}
    return _subject(pipeline, network, embeddings, {"guidance_scale": 5.0, **_steps(full), **settings})


def wan(full: bool, **settings: Any) -> Subject:
    """Wan2.1-1.3B, 33 frames of 480 x 832, or eight blocks of width 64, 5 frames of 64 x 64; two forwards a step."""
    size = {"num_attention_heads": 12, "attention_head_dim": 128, "ffn_dim": 8960, "num_layers": 30}
    if not full:
        size = {"num_attention_heads": 4, "attention_head_dim": 16, "ffn_dim": 128, "num_layers": 8, "text_dim": 32}
    network = _network(WanTransformer3DModel, full, **size)
    parts: dict[str, Any] = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    parts["scheduler"] = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    pipeline = WanPipeline(transformer=network, **parts)
    shape = (512 if full else 16, network.config.text_dim)
    embeddings = {"prompt_embeds": shape, "negative_prompt_embeds": shape}
    film = {"num_frames": 33, "height": 480, "width": 832} if full else {"num_frames": 5, "height": 64, "width": 64}
    return _subject(pipeline, network, embeddings, {**film, "guidance_scale": 5.0, **_steps(full), **settings})


SUBJECTS: Mapping[str, Callable[..., Subject]] = {"flux": flux, "sd21": stable_diffusion, "wan": wan}
"""Each takes `full` and changes of the call arguments."""


def _steps(full: bool) -> dict[str, Any]:
    return {"num_inference_steps": 28 if full else 8, "output_type": "latent"}


def _network(cls: Callable[..., Any], full: bool, **config: Any) -> Any:
    """Random weights, made where they will be used."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16 if full else torch.float32)
    try:
        with torch.device("cuda" if full else "cpu"):
            return cls(**config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def _subject(pipeline: Any, network: Any, embeddings: Any, settings: Any) -> Subject:
    pipeline.set_progress_bar_config(disable=True)
    return Subject(pipeline, network, settings, embeddings)
