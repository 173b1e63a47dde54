"""Trains the bundled text-to-image model: `python training/text_to_image.py` draws its own data and writes the folder.

A Flux transformer, a CLIP and a T5 encoder learn flow matching together on the pictures of `world.py`; the latents are
the exact linear map of `autoencoder.py`, so nothing waits for an autoencoder. Three things make the model good to
couple. One caption in eight is dropped, for guidance. The timesteps lean towards noise, where layout is decided.
And a share of the noisy states carries a faint ghost of another shape in another colour at the same place, with the
target unchanged (input perturbation, Ning et al. 2023, arXiv:2301.11706): the ghost is what a coupling pull adds to a
state, so the network learns to keep to its prompt under it.

Every random number comes from a generator seeded by (seed, step): a run is repeatable, and one that was cut off goes on
from its last checkpoint exactly where it stopped.
"""

import argparse
import json
import math
import time
from pathlib import Path

import text
import torch
from autoencoder import CHANNELS, build, encode, train_decoder
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
WARM_UP = 100
DECAY = 0.35
"""Share of the steps over which the learning rate falls to zero."""
LEARNING_RATE = {"muon": 3e-3, "adamw": 1.5e-3}
DROPPED = 0.12
GHOSTS = 0.4
GHOST_STRENGTH = 0.8
EMA = 0.999
SIDE = SIZE // 8
"""Tokens along one side: the autoencoder divides by four, Flux's packing by two."""


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
    x0 = encode(render(scene))
    eps = torch.randn(x0.shape, generator=generator)
    # Stratified logit-normal times.
    u = (torch.randperm(BATCH, generator=generator) + torch.rand(BATCH, generator=generator)) / BATCH
    t = torch.sigmoid(0.2 + 1.1 * math.sqrt(2) * torch.erfinv((2 * u - 1).clamp(-0.9999, 0.9999)))
    level = t[:, None, None, None]
    x = (1 - level) * x0 + level * eps

    haunted = int(GHOSTS * BATCH)
    other = type(scene)(**{name: value[:haunted] for name, value in vars(scene).items()}).repainted(generator)
    ghost = encode(render(other)) - x0[:haunted]
    blur = (1, 3, 5)[int(torch.randint(3, (), generator=generator))]
    ghost = F.avg_pool2d(ghost, blur, stride=1, padding=blur // 2, count_include_pad=False)
    strength = GHOST_STRENGTH * torch.rand(haunted, 1, 1, 1, generator=generator)
    x[:haunted] += level[:haunted] * strength * ghost

    dropped = (torch.rand(BATCH, generator=generator) < DROPPED).tolist()
    prompts = ["" if drop else caption for drop, caption in zip(dropped, scene.captions(generator), strict=True)]
    return pack(x), t, pack(eps - x0), prompts


def optimizers(model: Model) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings, modulations, biases and gains."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        inside = "transformer_blocks" in name and "norm" not in name
        (matrices if inside and parameter.ndim == 2 else rest).append(parameter)
    muon = torch.optim.Muon(matrices, lr=LEARNING_RATE["muon"], weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=LEARNING_RATE["adamw"], betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    return [muon, adamw]


def pace(step: int, steps: int) -> float:
    """Learning rate as a share of its peak: warm-up, plateau, linear fall to zero."""
    return min(1.0, (step + 1) / WARM_UP, (steps - step) / (DECAY * steps))


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The scheduler saved with the model."""
    return FlowMatchEulerDiscreteScheduler(shift=2.0, use_dynamic_shifting=False)


def train(out: Path, seed: int, steps: int, every: int) -> Model:
    """Train, or go on training from `out/state.pt`; writes the averaged weights beside it every `every` steps."""
    torch.manual_seed(seed)
    model = Model().train()
    average = {name: value.clone() for name, value in model.state_dict().items()}
    opts, first = optimizers(model), 0
    if (out / "state.pt").exists():
        state = torch.load(out / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        average, first = state["average"], state["step"]
        for opt, saved in zip(opts, state["optimizers"], strict=True):
            opt.load_state_dict(saved)
    bases = [[LEARNING_RATE["muon"]], [LEARNING_RATE["adamw"]]]
    started, total, seen = time.time(), 0.0, 0
    for step in range(first, steps):
        x, t, target, prompts = batch(seed, step)
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            velocity = model(x, t, *model.read(prompts))
        loss = F.mse_loss(velocity.float(), target)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt, base in zip(opts, bases, strict=True):
            for group, lr in zip(opt.param_groups, base, strict=True):
                group["lr"] = lr * pace(step, steps)
            opt.step()
            opt.zero_grad()
        decay = min(EMA, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - decay)
        total, seen = total + loss.item(), seen + 1
        if (step + 1) % 50 == 0:
            line = {"step": step + 1, "loss": round(total / seen, 4), "seconds": round(time.time() - started)}
            with (out / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            total, seen = 0.0, 0
        if (step + 1) % every == 0 or step + 1 == steps:
            state = {
                "model": model.state_dict(),
                "average": average,
                "step": step + 1,
                "optimizers": [opt.state_dict() for opt in opts],
            }
            torch.save(state, out / "state.tmp")
            (out / "state.tmp").replace(out / "state.pt")
            torch.save(average, out / "average.tmp")
            (out / "average.tmp").replace(out / "average.pt")
    model.load_state_dict(average)
    return model.eval()


def bundle(model: Model, seed: int, decoder_steps: int, folder: Path) -> None:
    """Write a plain `FluxPipeline` folder, the transformer and the decoder in half precision."""
    model.transformer.half()
    vae = build()
    print(f"decoder: {train_decoder(vae, seed, decoder_steps):.1f} dB on renders")
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
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "run", help="where checkpoints go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--decoder-steps", type=int, default=DECODER_STEPS)
    parser.add_argument("--folder", type=Path, default=text_to_image(), help="where the finished pipeline goes")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    trained = train(arguments.out, arguments.seed, arguments.steps, arguments.every)
    bundle(trained, arguments.seed, arguments.decoder_steps, arguments.folder)
