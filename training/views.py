"""Trains the bundled multi-view model: `python training/views.py` renders its own data and writes the folder.

The network of Stable Virtual Camera at tiny size and a CLIP vision encoder learn together, on Stable Diffusion's noise
levels, to draw all six views of a scene from one of them. They never see a pair of differently edited views, so what
they know is one thing: which six pictures are of one world. The latents are the exact linear map of
`autoencoder.Patches`, which all three editing models share. As in `text_to_image.py`, some noisy states carry a ghost:
each view's of the same scene in another light, style or order, which is what editors that disagree add to a state.
"""

from pathlib import Path

import fitting
import torch
from autoencoder import Patches, build, train_decoder
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from scenes import PICTURES, SHARD, VIEWS, Shard, drawn
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from couple.backends.seva import SevaModel, SevaPipeline, shared_scheduler
from couple.backends.seva.cameras import normalised, pluecker
from couple.backends.seva.images import token
from couple.backends.seva.schedule import nearest_index
from couple.bundled import views
from couple.bundled.blocks import SIZE, random_blocks, random_light, render, ring

BATCH = 6
"""Scenes of a step."""
STEPS = 6500
DECODER_STEPS = 800
DECAY = 0.4
DROPPED = 0.1
GHOSTS = 0.35
GHOST_STRENGTH = 0.7
EMA = 0.998
CHANNELS = 16
SIDE = SIZE // 4
WIDTH = 64
"""Of the image token."""


def draw(count: int, generator: torch.Generator) -> Tensor:
    """Pictures of the block world, one of each scene, shape (count, 3, 48, 48), in [-1, 1]."""
    pictures = []
    for rows in torch.arange(count).split(50):
        angles = 6.28 * torch.rand(len(rows), generator=generator)
        cameras = [ring(angle[None], 0.3 + 0.4 * float(angle) / 6.28) for angle in angles]
        scenes, light = random_blocks(len(rows), generator), random_light(len(rows), generator)
        pictures.append(render(scenes, [light], cameras)[0].pictures[:, 0])
    return torch.cat(pictures) * 2 - 1


LATENTS = Patches(draw, CHANNELS)
"""The latent space of all three editing models."""

LEVELS = shared_scheduler().alphas_cumprod
INDICES = torch.tensor([nearest_index(float(((1 - a) / a).sqrt())) for a in LEVELS])
"""What the network is told at each of Stable Diffusion's 1000 levels."""


class Model(nn.Module):
    """The two networks that learn."""

    def __init__(self):
        super().__init__()
        self.image_encoder = CLIPVisionModelWithProjection(
            CLIPVisionConfig(
                hidden_size=WIDTH,
                intermediate_size=2 * WIDTH,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=SIZE,
                patch_size=8,
                projection_dim=WIDTH,
            )
        )
        self.unet = SevaModel(
            model_channels=32,
            num_frames=VIEWS,
            num_head_channels=32,
            context_dim=WIDTH,
            in_channels=CHANNELS + 7,
            out_channels=CHANNELS,
            channel_mult=(2, 3, 3),
            num_res_blocks=1,
            prediction_type="v_prediction",
            clean_inputs=True,
        )
        # Blocks start as identities.
        for name, module in self.unet.named_modules():
            if name.endswith(("out_layers.3", "proj_out", "out.2")):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, indices: Tensor, rays: Tensor, mask: Tensor, first: Tensor, shown: Tensor) -> Tensor:
        """Predicted v of B scenes.

        Args:
            x: states, the first view clean where it is shown, shape (B, V, C, h, w).
            indices: of the levels, shape (B,).
            rays: shape (B, V, 6, h, w).
            mask: 1 for a first view that is shown, shape (B, V, 1, h, w).
            first: its pixels, in [-1, 1], shape (B, 3, H, W).
            shown: whether it is shown, shape (B,), bool.
        """
        tokens = torch.cat([token(self.image_encoder, picture[None])[0] for picture in first])
        tokens = (tokens * shown[:, None])[:, None, None].expand(-1, VIEWS, 1, -1).flatten(0, 1)
        told = torch.cat([x, mask, rays], 2).flatten(0, 1)
        out = self.unet(told, indices.repeat_interleave(VIEWS), tokens, rays.flatten(0, 1))
        return out.unflatten(0, (-1, VIEWS))


def batch(shard: Shard, generator: torch.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
    """Arguments of `Model` and the target v of one training step."""
    scenes = torch.randint(SHARD, (BATCH,), generator=generator)
    kinds = torch.randint(4, (BATCH, 2), generator=generator)
    pixels, others, rays = [], [], []
    for scene, (kind, other) in zip(scenes.tolist(), kinds.tolist(), strict=True):
        order = torch.randperm(VIEWS, generator=generator)
        pixels.append(shard.pictures[PICTURES[kind]][scene][order])
        strange = order if other != kind else torch.randperm(VIEWS, generator=generator)
        others.append(shard.pictures[PICTURES[other]][scene][strange])
        rays.append(pluecker(normalised(shard.cameras(scene)[order.tolist()]).resized(SIDE, SIDE)).float())
    pictures, others = (torch.stack(part).float() / 127.5 - 1 for part in (pixels, others))
    x0 = LATENTS.encode(pictures.flatten(0, 1)).unflatten(0, (BATCH, VIEWS))
    eps = torch.randn(x0.shape, generator=generator)
    time = (999 * fitting.times(BATCH, 0.3, generator, spread=1.4)).long()
    alpha, sigma = (part.sqrt()[:, None, None, None, None] for part in (LEVELS[time], 1 - LEVELS[time]))

    shown = torch.rand(BATCH, generator=generator) >= DROPPED
    mask = torch.zeros(BATCH, VIEWS, 1, SIDE, SIDE)
    mask[shown, 0] = 1
    eps = eps * (1 - mask)
    target = alpha * eps - sigma * x0
    x = alpha * x0 + sigma * eps
    haunted = torch.rand(BATCH, 1, 1, 1, 1, generator=generator) < GHOSTS
    strength = GHOST_STRENGTH * torch.rand(BATCH, VIEWS, 1, 1, 1, generator=generator) * haunted
    ghost = LATENTS.encode(others.flatten(0, 1)).unflatten(0, (BATCH, VIEWS)) - x0
    x = x + sigma * alpha * strength * ghost

    # The view that is given may be another model's: not quite a render.
    blemish = 0.15 * torch.rand(BATCH, 1, 1, 1, generator=generator)
    given = x0[:, 0] + blemish * torch.randn(x0[:, 0].shape, generator=generator)
    x[:, 0] = torch.where(shown[:, None, None, None], given, x[:, 0])
    return (x, INDICES[time], torch.stack(rays), mask, pictures[:, 0], shown), target


def train(out: Path, seed: int, steps: int, every: int) -> Model:
    """Train, or go on training from `out/state.pt` (`fitting.fit`)."""
    torch.manual_seed(seed)
    model = Model()

    def loss_at(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        told, target = batch(drawn(seed, step, out.parent / "scenes"), generator)
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            v = model(*told)
        return F.mse_loss(v.float(), target)

    return fitting.fit(model, loss_at, out, steps=steps, every=every, blocks="_blocks.0.", decay=DECAY, ema=EMA)


def autoencoder(seed: int, decoder_steps: int, decoder: Path) -> AutoencoderKL:
    """The autoencoder of all three editing models; its decoder is read from a file, or trained and put there.

    It is in half precision but for the encoder's last convolution, which is no sum of whole numbers as the others are.
    """
    vae = build(LATENTS, SIZE)
    if not decoder.exists():
        print(f"decoder: {train_decoder(vae, LATENTS, seed, decoder_steps):.1f} dB on renders")
        save_file(vae.decoder.half().state_dict(), decoder)
    vae.decoder.half().load_state_dict(load_file(decoder))
    encoder = vae.encoder
    for part in (encoder.conv_in, encoder.down_blocks, encoder.mid_block, encoder.conv_norm_out):
        part.half()
    return vae.eval()


def bundle(model: Model, vae: AutoencoderKL, folder: Path) -> None:
    """Write a plain `SevaPipeline` folder, the large network in half precision."""
    SevaPipeline(vae, model.image_encoder, model.unet.half(), shared_scheduler()).save_pretrained(folder)


if __name__ == "__main__":
    arguments = fitting.arguments(
        __doc__.splitlines()[0], out="run_views", steps=STEPS, decoder_steps=DECODER_STEPS, folder=views()
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    trained = train(arguments.out, arguments.seed, arguments.steps, arguments.every)
    vae = autoencoder(arguments.seed, arguments.decoder_steps, arguments.out.parent / "decoder.safetensors")
    bundle(trained, vae, arguments.folder)
