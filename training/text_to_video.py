"""Trains the bundled text-to-video model: `python training/text_to_video.py` draws its own data and writes the folder.

A Wan transformer and a UMT5 encoder learn flow matching together on the clips of `sprites.py`; the latents are the
exact linear map of `video_autoencoder.py`, so nothing waits for an autoencoder. As in `text_to_image.py`, one caption
in eight is dropped, timesteps lean towards noise, and a share of the noisy states carries a faint ghost of another
sprite on the same path, so that the network learns to keep its prompt under a pull.

Every random number comes from a generator seeded by (seed, step): a run is repeatable, and one that was cut off goes on
from its last checkpoint exactly where it stopped.
"""

from pathlib import Path

import fitting
import text
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from sprites import random_clips, render
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from video_autoencoder import CHANNELS, build, encode, train_decoder

from couple.bundled import text_to_video

BATCH = 32
STEPS = 3500
DECODER_STEPS = 1200
DECAY = 0.4
"""Share of the steps over which the learning rate falls to zero."""
DROPPED = 0.12
GHOSTS = 0.4
GHOST_STRENGTH = 0.8
EMA = 0.998
LENGTHS = (8, 8, 8, 32)
"""Prompt tokens, padding included, of the steps in turn: the network must not mind how much padding there is."""


class Model(nn.Module):
    """The two networks that learn: prompt encoder and transformer."""

    def __init__(self):
        super().__init__()
        self.tokenizer = text.t5_tokenizer(text.VIDEO_WORDS)
        self.text_encoder = text.umt5_encoder(self.tokenizer)
        self.transformer = WanTransformer3DModel(
            patch_size=(1, 1, 1),
            num_attention_heads=4,
            attention_head_dim=48,
            in_channels=CHANNELS,
            out_channels=CHANNELS,
            text_dim=self.text_encoder.config.d_model,
            freq_dim=128,
            ffn_dim=512,
            num_layers=6,
            rope_max_seq_len=32,
        )
        # Blocks start as identities and the output as zero (adaLN-zero, Peebles and Xie 2023).
        transformer = self.transformer
        for block in transformer.blocks:
            nn.init.zeros_(block.scale_shift_table)
            nn.init.zeros_(block.attn2.to_out[0].weight)
        for layer in (transformer.condition_embedder.time_proj, transformer.proj_out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def read(self, prompts: list[str], length: int) -> Tensor:
        """Prompt embeddings (B, length, 64) as `WanPipeline` makes them, each distinct prompt read once."""
        distinct = sorted(set(prompts))
        rows = torch.tensor([distinct.index(prompt) for prompt in prompts])
        ids = text.tokenize(self.tokenizer, distinct, length)
        mask = (ids != self.tokenizer.pad_token_id).long()
        return (self.text_encoder(ids, mask)[0] * mask[..., None])[rows]

    def forward(self, x: Tensor, t: Tensor, words: Tensor) -> Tensor:
        """Predicted velocity eps - x0 of states x (B, C, F, h, w) at times t (B,), 1 being noise."""
        return self.transformer(x, 1000 * t, words, return_dict=False)[0]


def batch(seed: int, step: int) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """States x (B, C, F, h, w), times t (B,), target velocities and prompts of one training step."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    clips = random_clips(BATCH, generator)
    x0 = encode(render(clips))
    eps = torch.randn(x0.shape, generator=generator)
    t = fitting.times(BATCH, 0.4, generator)
    level = t[:, None, None, None, None]
    x = (1 - level) * x0 + level * eps

    haunted = int(GHOSTS * BATCH)
    ghost = encode(render(clips.first(haunted).repainted(generator))) - x0[:haunted]
    strength = GHOST_STRENGTH * torch.rand(haunted, 1, 1, 1, 1, generator=generator)
    x[:haunted] += level[:haunted] * strength * ghost

    dropped = (torch.rand(BATCH, generator=generator) < DROPPED).tolist()
    prompts = ["" if drop else caption for drop, caption in zip(dropped, clips.captions(generator), strict=True)]
    return x, t, eps - x0, prompts


def scheduler() -> UniPCMultistepScheduler:
    """The scheduler saved with the model, Wan's own."""
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)


def train(out: Path, seed: int, steps: int, every: int) -> Model:
    """Train, or go on training from `out/state.pt` (`fitting.fit`)."""
    torch.manual_seed(seed)
    model = Model()

    def loss_at(step: int) -> Tensor:
        x, t, target, prompts = batch(seed, step)
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            velocity = model(x, t, model.read(prompts, LENGTHS[step % len(LENGTHS)]))
        return F.mse_loss(velocity.float(), target)

    return fitting.fit(model, loss_at, out, steps=steps, every=every, blocks=".blocks.", decay=DECAY, ema=EMA)


def bundle(model: Model, seed: int, decoder_steps: int, folder: Path) -> None:
    """Write a plain `WanPipeline` folder, the transformer and the decoder in half precision."""
    model.transformer.half()
    vae = build()
    print(f"decoder: {train_decoder(vae, seed, decoder_steps):.1f} dB on renders")
    vae.decoder.half()
    WanPipeline(
        tokenizer=model.tokenizer,
        text_encoder=model.text_encoder,
        vae=vae.eval(),
        scheduler=scheduler(),
        transformer=model.transformer,
    ).save_pretrained(folder)


if __name__ == "__main__":
    arguments = fitting.arguments(
        __doc__.splitlines()[0], out="run_video", steps=STEPS, decoder_steps=DECODER_STEPS, folder=text_to_video()
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    trained = train(arguments.out, arguments.seed, arguments.steps, arguments.every)
    bundle(trained, arguments.seed, arguments.decoder_steps, arguments.folder)
