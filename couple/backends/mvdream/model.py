"""MVDream's network: the UNet of Stable Diffusion 2.1 whose self-attention spans the views of an object.

Two things set it apart from the network it was fine-tuned from: the tokens of all views of a sample attend to each
other (`layers.TransformerBlock`), and an embedding of each view's camera is added to that of the timestep.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.attention import AttentionMixin
from diffusers.models.embeddings import Timesteps
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from torch import Tensor, nn

from couple.backends.ldm import Downsample, Upsample
from couple.backends.mvdream.layers import Block, ResBlock, SpatialTransformer


class MVDreamModel(ModelMixin, AttentionMixin, ConfigMixin):
    """Predicts the noise in the latents of the views of an object.

    The defaults are those of the published network (`sd-v2.1-base-4view`): 867,572,164 parameters, 1.7 GB in half
    precision. State-dict keys are those of its checkpoints. Source: bytedance/MVDream@618f8447.

    Args:
        in_channels: channels of the latents.
        out_channels: channels of the prediction.
        model_channels: width of the first level; a multiple of 32.
        channel_mult: width of every level over `model_channels`.
        num_res_blocks: residual blocks of a level on the way down (one more on the way up).
        attention_resolutions: downsampling factors, among 1, 2, 4, ..., whose level has attention.
        num_head_channels: width of an attention head.
        transformer_depth: transformer blocks of each attention layer.
        context_dim: width of the text tokens.
        camera_dim: numbers that describe a camera.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        out_channels: int = 4,
        model_channels: int = 320,
        channel_mult: Sequence[int] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        attention_resolutions: Sequence[int] = (4, 2, 1),
        num_head_channels: int = 64,
        transformer_depth: int = 1,
        context_dim: int = 1024,
        camera_dim: int = 16,
    ) -> None:
        """Make the layers, with random weights."""
        super().__init__()
        emb_channels = 4 * model_channels
        widths = [model_channels * mult for mult in channel_mult]
        bottom = len(widths) - 1

        def embedding(channels: int) -> nn.Sequential:
            return nn.Sequential(nn.Linear(channels, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels))

        def attention(width: int) -> SpatialTransformer:
            return SpatialTransformer(width, width // num_head_channels, context_dim, transformer_depth)

        def layers(channels: int, level: int) -> list[nn.Module]:
            width = widths[level]
            block: list[nn.Module] = [ResBlock(channels, width, emb_channels)]
            return [*block, attention(width)] if 2**level in attention_resolutions else block

        self.timesteps = Timesteps(model_channels, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embed = embedding(model_channels)
        self.camera_embed = embedding(camera_dim)

        width = model_channels
        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(in_channels, width, 3, padding=1))])
        skips = [width]
        for level in range(len(widths)):
            for _ in range(num_res_blocks):
                self.input_blocks.append(Block(*layers(width, level)))
                skips.append(width := widths[level])
            if level < bottom:
                self.input_blocks.append(Block(Downsample(width)))
                skips.append(width)

        self.middle_block = Block(
            ResBlock(width, width, emb_channels), attention(width), ResBlock(width, width, emb_channels)
        )

        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for i in range(num_res_blocks + 1):
                block = layers(width + skips.pop(), level)
                width = widths[level]
                if level > 0 and i == num_res_blocks:
                    block.append(Upsample(width))
                self.output_blocks.append(Block(*block))
        self.out = nn.Sequential(nn.GroupNorm(32, width), nn.SiLU(), nn.Conv2d(width, out_channels, 3, padding=1))

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor,
        camera: Tensor | None = None,
        num_views: int = 4,
        return_dict: bool = True,
    ) -> UNet2DConditionOutput | tuple[Tensor]:
        """Predict the noise.

        Args:
            sample: noisy latents, shape (B * V, C, h, w), the V views of a sample next to each other; h and w are
                multiples of 2 ** (levels - 1), 8 for the published network.
            timestep: 0 to 999, one for all or shape (B * V,).
            encoder_hidden_states: text tokens of every view, shape (B * V, L, context_dim).
            camera: one vector for every view, shape (B * V, camera_dim), see `cameras.camera_vectors`; None adds no
                camera embedding, as the network was trained on single pictures.
            num_views: V.
            return_dict: whether to return the prediction as `.sample` rather than in a tuple.

        Returns:
            The prediction, shape of `sample`.

        Raises:
            ValueError: the rows of `sample` are not a multiple of `num_views`.
        """
        rows = len(sample)
        if rows % num_views:
            raise ValueError(f"`sample` has {rows} rows, which are not samples of {num_views} views; set num_views.")
        timestep = torch.as_tensor(timestep, device=sample.device).expand(rows)
        emb = self.time_embed(self.timesteps(timestep).to(sample.dtype))
        if camera is not None:
            emb = emb + self.camera_embed(camera)

        x, skips = sample, []
        for block in self.input_blocks:
            x = block(x, emb, encoder_hidden_states, num_views)
            skips.append(x)
        x = self.middle_block(x, emb, encoder_hidden_states, num_views)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), emb, encoder_hidden_states, num_views)
        x = self.out(x)
        return UNet2DConditionOutput(sample=x) if return_dict else (x,)
