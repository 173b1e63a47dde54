"""The training loop of the bundled models: two optimizers, an average of the weights, checkpoints to go on from.

What is learnt, from what data, is the scripts' business (`text_to_image.py`, `text_to_video.py`).
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

WARM_UP = 100
LEARNING_RATE = {"muon": 3e-3, "adamw": 1.5e-3}

Network = TypeVar("Network", bound=nn.Module)


def arguments(description: str, *, out: str, steps: int, decoder_steps: int, folder: Path) -> argparse.Namespace:
    """Read the command line of a training script; these are its defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / out, help="where checkpoints go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--decoder-steps", type=int, default=decoder_steps)
    parser.add_argument("--folder", type=Path, default=folder, help="where the finished pipeline goes")
    return parser.parse_args()


def times(count: int, lean: float, generator: torch.Generator, *, spread: float = 1.1) -> Tensor:
    """Stratified logit-normal times, shape (count,), in (0, 1); `lean` and `spread` are those of their logits."""
    u = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    return torch.sigmoid(lean + spread * 2**0.5 * torch.erfinv((2 * u - 1).clamp(-0.9999, 0.9999)))


def optimizers(model: nn.Module, blocks: str) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings, modulations, biases and gains.

    Args:
        model: whose parameters are trained.
        blocks: what the names of parameters inside a block contain.
    """
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        inside = blocks in name and "norm" not in name
        (matrices if inside and parameter.ndim == 2 else rest).append(parameter)
    muon = torch.optim.Muon(matrices, lr=LEARNING_RATE["muon"], weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=LEARNING_RATE["adamw"], betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    return [muon, adamw]


def fit(
    model: Network,
    loss_at: Callable[[int], Tensor],
    out: Path,
    *,
    steps: int,
    every: int,
    blocks: str,
    decay: float,
    ema: float,
) -> Network:
    """Train, or go on training from `out/state.pt`; writes the averaged weights beside it every `every` steps.

    Args:
        model: trained in place.
        loss_at: the loss of a step, given its number.
        out: folder of checkpoints and of `log.jsonl`, a line every 50 steps.
        steps: in all.
        every: steps between checkpoints.
        blocks: see `optimizers`.
        decay: share of the steps over which the learning rate falls to zero.
        ema: how much of the average is kept at each step, once it is long.

    Returns:
        The model with its averaged weights, in evaluation mode.
    """
    model.train()
    average = {name: value.clone() for name, value in model.state_dict().items()}
    opts, first = optimizers(model, blocks), 0
    if (out / "state.pt").exists():
        state = torch.load(out / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        average, first = state["average"], state["step"]
        for opt, saved in zip(opts, state["optimizers"], strict=True):
            opt.load_state_dict(saved)
    started, total, seen = time.time(), 0.0, 0
    for step in range(first, steps):
        loss = loss_at(step)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        # Warm-up, plateau, linear fall to zero.
        pace = min(1.0, (step + 1) / WARM_UP, (steps - step) / (decay * steps))
        for opt, rate in zip(opts, LEARNING_RATE.values(), strict=True):
            for group in opt.param_groups:
                group["lr"] = rate * pace
            opt.step()
            opt.zero_grad()
        kept = min(ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - kept)
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
            _replace(out / "state.pt", state)
            _replace(out / "average.pt", average)
    model.load_state_dict(average)
    return model.eval()


def _replace(path: Path, state: dict) -> None:
    """Save whole or not at all."""
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.replace(path)
