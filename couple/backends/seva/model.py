"""The network of Stable Virtual Camera (SEVA; Zhou et al., arXiv 2503.14489).

A UNet of the shape of Stable Diffusion 2.1 whose rows are the frames of one clip: every frame's camera enters as a
map of rays, and attention runs across frames. The published one predicts epsilon. Written from the published
description of Stability-AI/stable-virtual-camera@fe19948 and checked against golden values of that code; it has the
checkpoint's keys.
"""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from couple.backends.ldm import Downsample, Upsample
from couple.backends.seva.layers import GroupNorm, MultiviewTransformer, ResBlock


class Stage(nn.ModuleList):
    """Layers that follow each other, each given what it asks for."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, dense: Tensor, num_frames: int) -> Tensor:
        """Run the layers on x (rows, channels, h, w)."""
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb, dense)
            elif isinstance(layer, MultiviewTransformer):
                x = layer(x, context, num_frames)
            else:
                x = layer(x)
        return x


class SevaModel(ModelMixin, ConfigMixin):
    """The network: it predicts the noise of all frames of a clip at once.

    The defaults are those of the published weights, v1.0 and v1.1: 1146 tensors, 1,263,968,004 parameters.

    Args:
        model_channels: width of the first level; a multiple of 32 and of `num_head_channels`.
        num_frames: T, frames of a clip.
        num_head_channels: width of one attention head.
        context_dim: width of the image token.
        in_channels: latent, mask and rays: 4 + 1 + 6.
        out_channels: of the predicted noise.
        dense_channels: of the ray map that steers the residual blocks.
        channel_mult: width of each level in units of `model_channels`. All levels but the last have attention.
        num_res_blocks: of a level, on the way down; one more on the way up.
        prediction_type: "epsilon", or "v_prediction" (alpha eps - sigma x0 with alpha^2 + sigma^2 = 1).
        clean_inputs: whether the known latents of input frames enter at their own scale; as published they are
            scaled down with the noisy ones, where a small network loses sight of them.
    """

    _no_split_modules = ["ResBlock", "MultiviewTransformer"]
    _repeated_blocks = ["MultiviewTransformer"]

    @register_to_config
    def __init__(
        self,
        model_channels: int = 320,
        num_frames: int = 21,
        num_head_channels: int = 64,
        context_dim: int = 1024,
        in_channels: int = 11,
        out_channels: int = 4,
        dense_channels: int = 6,
        channel_mult: tuple[int, ...] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        prediction_type: str = "epsilon",
        clean_inputs: bool = False,
    ):
        super().__init__()
        if prediction_type not in ("epsilon", "v_prediction"):
            raise ValueError(f"prediction_type={prediction_type!r} is unknown; use 'epsilon' or 'v_prediction'.")
        emb_channels = 4 * model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )

        def res(channels: int, out: int) -> ResBlock:
            return ResBlock(channels, out, emb_channels, dense_channels)

        def views(channels: int, joint: bool) -> MultiviewTransformer:
            return MultiviewTransformer(channels, num_head_channels, context_dim, joint)

        widths = [model_channels * width for width in channel_mult]
        last = len(widths) - 1
        self.input_blocks = nn.ModuleList([Stage([nn.Conv2d(in_channels, model_channels, 3, padding=1)])])
        skips, channels = [model_channels], model_channels
        for level, width in enumerate(widths):
            for _ in range(num_res_blocks):
                attention = [views(width, joint=False)] if level < last else []
                self.input_blocks.append(Stage([res(channels, width), *attention]))
                channels = width
                skips.append(channels)
            if level < last:
                self.input_blocks.append(Stage([Downsample(channels)]))
                skips.append(channels)

        self.middle_block = Stage([res(channels, channels), views(channels, joint=True), res(channels, channels)])

        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for block in range(num_res_blocks + 1):
                # On the way up the frames attend to each other everywhere but at full resolution.
                attention = [views(width, joint=level > 0)] if level < last else []
                up = [Upsample(width)] if level > 0 and block == num_res_blocks else []
                self.output_blocks.append(Stage([res(channels + skips.pop(), width), *attention, *up]))
                channels = width

        self.out = nn.Sequential(GroupNorm(channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1))

    @property
    def downscale(self) -> int:
        """How much smaller the height and width of the latents are at the last level."""
        return 2 ** (len(self.config["channel_mult"]) - 1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, dense: Tensor, num_frames: int | None = None) -> Tensor:
        """Predict the noise, or what `prediction_type` says, in B clips of T frames.

        Args:
            x: shape (B * T, in_channels, h, w), frames of one clip next to each other; h and w
                multiples of `downscale` (8).
            t: shape (B * T,), indices into the ascending table of 1000 noise levels (`schedule.SIGMAS`).
            y: shape (B * T, 1, context_dim), the image token of each frame.
            dense: shape (B * T, dense_channels, H, W), rays; resized to each level.
            num_frames: T, where it is not the `num_frames` of the config.

        Returns:
            Shape (B * T, out_channels, h, w), of the type of `x`.
        """
        num_frames = num_frames or self.config["num_frames"]
        angles = get_timestep_embedding(t, self.config["model_channels"], flip_sin_to_cos=True, downscale_freq_shift=0)
        side = (self.time_embed(angles.to(x.dtype)), y, dense, num_frames)
        skips = []
        for stage in self.input_blocks:
            x = stage(x, *side)
            skips.append(x)
        x = self.middle_block(x, *side)
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), *side)
        return self.out(x)
