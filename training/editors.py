"""What the two bundled picture editors have in common: a small Stable Diffusion that shares the views' latent space.

Both see one picture at a time, so where an edit is ambiguous (which new sun, which winter) each view gets its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fitting
import text
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from scenes import PICTURES, SHARD, VIEWS, Shard, drawn
from torch import Tensor, nn
from torch.nn import functional as F
from views import CHANNELS, LATENTS, LEVELS, SIDE

from couple.backends.seva import shared_scheduler

BATCH = 32
DECAY = 0.4
EMA = 0.998
DROPPED = 0.1
GHOSTS = 0.35
GHOST_STRENGTH = 0.7
#: Of the UNet and of a ControlNet on it.
BLOCKS: dict[str, Any] = {
    "block_out_channels": (64, 96, 64),
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "attention_head_dim": (2, 3, 2),
    "cross_attention_dim": 64,
    "use_linear_projection": True,
}


@dataclass(frozen=True, eq=False)
class Draw:
    """Pictures of one training step, a view of each of some scenes.

    Attributes:
        source: what the editor is shown, in [0, 1], shape (B, 3, 48, 48).
        target: what it should draw.
        ghost: what another view's edit could look like here.
        prompts: B of them.
    """

    source: Tensor
    target: Tensor
    ghost: Tensor
    prompts: list[str]


def pick(shard: Shard, generator: torch.Generator) -> dict[str, Tensor]:
    """`BATCH` views of scenes, all kinds of `PICTURES` by name, and the number of the scene under "scene"."""
    scene = torch.randint(SHARD, (BATCH,), generator=generator)
    view = torch.randint(VIEWS, (BATCH,), generator=generator)
    return {**{name: shard.pictures[name][scene, view].float() / 255 for name in PICTURES}, "scene": scene}


class Editor(nn.Module):
    """The networks that learn: a text encoder, a UNet and what a kind of editor adds."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.tokenizer = text.clip_tokenizer(text.EDIT_WORDS)
        self.text_encoder = text.clip_encoder(self.tokenizer)
        self.unet = UNet2DConditionModel(
            sample_size=SIDE,
            in_channels=in_channels,
            out_channels=CHANNELS,
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            **BLOCKS,
        )
        nn.init.zeros_(self.unet.conv_out.weight)
        nn.init.zeros_(self.unet.conv_out.bias)

    def read(self, prompts: list[str]) -> Tensor:
        """Tokens (B, 16, 64), each distinct prompt read once."""
        distinct = sorted(set(prompts))
        rows = torch.tensor([distinct.index(prompt) for prompt in prompts])
        return self.text_encoder(text.tokenize(self.tokenizer, distinct, text.CLIP_LENGTH))[0][rows]

    def parts(self, vae: Any) -> dict[str, Any]:
        """Components of a pipeline, the UNet in half precision."""
        return {
            "vae": vae,
            "text_encoder": self.text_encoder,
            "tokenizer": self.tokenizer,
            "unet": self.unet.half(),
            "scheduler": scheduler(),
            "safety_checker": None,
            "feature_extractor": None,
            "requires_safety_checker": False,
        }


def scheduler() -> DDPMScheduler:
    """The scheduler saved with both editors: that of the multi-view model, for v-predictions."""
    return DDPMScheduler.from_config(shared_scheduler().config, prediction_type="v_prediction")


def train(
    model: Editor,
    draw: Callable[[Shard, torch.Generator], Draw],
    predict: Callable[[Tensor, Tensor, Tensor, Tensor, torch.Generator], Tensor],
    out: Path,
    *,
    seed: int,
    steps: int,
    every: int,
) -> Editor:
    """Train, or go on training from `out/state.pt`.

    Args:
        model: trained in place.
        draw: makes the pictures of a step.
        predict: v of states (B, C, h, w) at times (B,), given sources (B, 3, H, W) and tokens.
        out: folder of checkpoints.
        seed: of everything random.
        steps: in all.
        every: steps between checkpoints.
    """

    def loss_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        drawing = draw(drawn(seed, step, out.parent / "scenes"), generator)
        x0, ghost = (LATENTS.encode(part * 2 - 1) for part in (drawing.target, drawing.ghost))
        eps = torch.randn(x0.shape, generator=generator)
        time = (999 * fitting.times(BATCH, 0.3, generator, spread=1.4)).long()
        alpha, sigma = (part.sqrt()[:, None, None, None] for part in (LEVELS[time], 1 - LEVELS[time]))
        strength = GHOST_STRENGTH * torch.rand(BATCH, 1, 1, 1, generator=generator)
        strength = strength * (torch.rand(BATCH, 1, 1, 1, generator=generator) < GHOSTS)
        x = alpha * (x0 + sigma * strength * (ghost - x0)) + sigma * eps
        dropped = (torch.rand(BATCH, generator=generator) < DROPPED).tolist()
        prompts = ["" if drop else prompt for drop, prompt in zip(dropped, drawing.prompts, strict=True)]
        with torch.autocast("cpu", torch.bfloat16):
            v = predict(x, time, drawing.source, model.read(prompts), generator)
        return F.mse_loss(v.float(), alpha * eps - sigma * x0)

    return fitting.fit(model, loss_at, out, steps=steps, every=every, blocks="transformer_blocks", decay=DECAY, ema=EMA)
