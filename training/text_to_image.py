"""Trains the bundled text-to-image model: `python training/text_to_image.py` draws its own data and writes the folder.

A Flux transformer, a CLIP and a T5 encoder learn flow matching together on the pictures of `world.py`; the latents are
the exact linear map of `autoencoder.Patches`, so nothing waits for an autoencoder. Three things make the model good to
couple. One caption in eight is dropped, for guidance. The timesteps lean towards noise, where layout is decided.
And a share of the noisy states carries a faint ghost of another shape in another colour at the same place, with the
target unchanged (input perturbation, Ning et al. 2023, arXiv:2301.11706): the ghost is what a coupling pull adds to a
state, so the network learns to keep to its prompt under it.

Every random number comes from a generator seeded by (seed, step): a run is repeatable, and one that was cut off goes on
from its last checkpoint exactly where it stopped.
"""

from pathlib import Path

import fitting
import text
import torch
from autoencoder import Patches, build, train_decoder
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from world import SIZE, random_scene, render

from couple.backends.flux import pack
from couple.bundled import text_to_image

BATCH = 64
STEPS = 6000
DECODER_STEPS = 400
DECAY = 0.35
"""Share of the steps over which the learning rate falls to zero."""
DROPPED = 0.12
GHOSTS = 0.4
GHOST_STRENGTH = 0.8
EMA = 0.999
SIDE = SIZE // 8
"""Tokens along one side: the autoencoder divides by four, Flux's packing by two."""
CHANNELS = 12
LATENTS = Patches(lambda count, generator: render(random_scene(count, generator)), CHANNELS)


class Model(nn.Module):
    """The three networks that learn: prompt encoders and transformer."""

    def __init__(self):
        super().__init__()
        self.tokenizer, self.tokenizer_2 = text.clip_tokenizer(), text.t5_tokenizer()
        self.text_encoder = text.clip_encoder(self.tokenizer)
        self.text_encoder_2 = text.t5_encoder(self.tokenizer_2)
        self.transformer = FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * CHANNELS,
            num_layers=1,
            num_single_layers=5,
            attention_head_dim=48,
            num_attention_heads=4,
            joint_attention_dim=self.text_encoder_2.config.d_model,
            pooled_projection_dim=self.text_encoder.config.hidden_size,
            guidance_embeds=False,
            axes_dims_rope=(16, 16, 16),
        )
        # Blocks start as identities and the output as zero (adaLN-zero, Peebles and Xie 2023).
        for name, module in self.transformer.named_modules():
            if name.endswith(("norm.linear", "norm1.linear", "norm1_context.linear", "proj_out")) and "." in name:
                if name.endswith("proj_out"):
                    continue
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.transformer.proj_out.weight)
        nn.init.zeros_(self.transformer.proj_out.bias)
        grid = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij"), -1).reshape(-1, 2)
        self.register_buffer("img_ids", F.pad(grid.float(), (1, 0)), persistent=False)
        self.register_buffer("txt_ids", torch.zeros(text.T5_LENGTH, 3), persistent=False)

    def read(self, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Pooled CLIP vectors (B, 64) and T5 tokens (B, 8, 64), each distinct prompt read once."""
        distinct = sorted(set(prompts))
        rows = torch.tensor([distinct.index(prompt) for prompt in prompts])
        pooled = self.text_encoder(text.tokenize(self.tokenizer, distinct, text.CLIP_LENGTH)).pooler_output
        tokens = self.text_encoder_2(text.tokenize(self.tokenizer_2, distinct, text.T5_LENGTH))[0]
        return pooled[rows], tokens[rows]

    def forward(self, x: Tensor, t: Tensor, pooled: Tensor, tokens: Tensor) -> Tensor:
        """Predicted velocity eps - x0 of packed states x (B, 64, 4 C) at times t (B,), 1 being noise."""
        return self.transformer(
            hidden_states=x,
            timestep=t,
            pooled_projections=pooled,
            encoder_hidden_states=tokens,
            txt_ids=self.txt_ids,
            img_ids=self.img_ids,
            return_dict=False,
        )[0]


def batch(seed: int, step: int) -> tuple[Tensor, Tensor, Tensor, list[str]]:
    """States x (B, 64, 4 C), times t (B,), target velocities and prompts of one training step."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    scene = random_scene(BATCH, generator)
    x0 = LATENTS.encode(render(scene))
    eps = torch.randn(x0.shape, generator=generator)
    t = fitting.times(BATCH, 0.2, generator)
    level = t[:, None, None, None]
    x = (1 - level) * x0 + level * eps

    haunted = int(GHOSTS * BATCH)
    other = type(scene)(**{name: value[:haunted] for name, value in vars(scene).items()}).repainted(generator)
    ghost = LATENTS.encode(render(other)) - x0[:haunted]
    blur = (1, 3, 5)[int(torch.randint(3, (), generator=generator))]
    ghost = F.avg_pool2d(ghost, blur, stride=1, padding=blur // 2, count_include_pad=False)
    strength = GHOST_STRENGTH * torch.rand(haunted, 1, 1, 1, generator=generator)
    x[:haunted] += level[:haunted] * strength * ghost

    dropped = (torch.rand(BATCH, generator=generator) < DROPPED).tolist()
    prompts = ["" if drop else caption for drop, caption in zip(dropped, scene.captions(generator), strict=True)]
    return pack(x), t, pack(eps - x0), prompts


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The scheduler saved with the model."""
    return FlowMatchEulerDiscreteScheduler(shift=2.0, use_dynamic_shifting=False)


def train(out: Path, seed: int, steps: int, every: int) -> Model:
    """Train, or go on training from `out/state.pt` (`fitting.fit`)."""
    torch.manual_seed(seed)
    model = Model()

    def loss_at(step: int) -> Tensor:
        x, t, target, prompts = batch(seed, step)
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            velocity = model(x, t, *model.read(prompts))
        return F.mse_loss(velocity.float(), target)

    return fitting.fit(model, loss_at, out, steps=steps, every=every, blocks="transformer_blocks", decay=DECAY, ema=EMA)


def bundle(model: Model, seed: int, decoder_steps: int, folder: Path) -> None:
    """Write a plain `FluxPipeline` folder, the transformer and the decoder in half precision."""
    model.transformer.half()
    vae = build(LATENTS, SIZE)
    print(f"decoder: {train_decoder(vae, LATENTS, seed, decoder_steps):.1f} dB on renders")
    vae.decoder.half()
    FluxPipeline(
        scheduler=scheduler(),
        vae=vae.eval(),
        text_encoder=model.text_encoder,
        tokenizer=model.tokenizer,
        text_encoder_2=model.text_encoder_2,
        tokenizer_2=model.tokenizer_2,
        transformer=model.transformer,
    ).save_pretrained(folder)


if __name__ == "__main__":
    arguments = fitting.arguments(
        __doc__.splitlines()[0], out="run", steps=STEPS, decoder_steps=DECODER_STEPS, folder=text_to_image()
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    trained = train(arguments.out, arguments.seed, arguments.steps, arguments.every)
    bundle(trained, arguments.seed, arguments.decoder_steps, arguments.folder)
