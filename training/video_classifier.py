"""Trains the judge of the bundled video model on renders alone: `python training/video_classifier.py` (some minutes).

Renders are blurred, brightened and speckled a little so that the judge does not stumble over a generator's texture;
it never sees a generated video. Accuracy is measured on 2000 clean and 2000 disturbed renders it has not seen.
"""

import argparse
from pathlib import Path

import torch
from classifier import disturb
from safetensors.torch import save_file
from sprites import Clips, random_clips, render
from torch import Tensor
from torch.nn import functional as F

from couple import bundled
from couple.metrics.clips import ClipClassifier

BATCH = 24


def example(count: int, generator: torch.Generator, disturbed: bool) -> tuple[Clips, Tensor]:
    """Random clips and their renders, shape (count, F, 3, H, W) in [0, 1]; the frames of a clip are disturbed apart."""
    clips = random_clips(count, generator)
    videos = render(clips).transpose(1, 2) / 2 + 0.5
    if disturbed:
        videos = disturb(videos.flatten(0, 1), generator).unflatten(0, videos.shape[:2])
    return clips, videos


@torch.no_grad()
def accuracy(classifier: ClipClassifier, seed: int, disturbed: bool, count: int = 2000) -> float:
    """Share of renders named right in shape, colour and motion."""
    generator, right = torch.Generator().manual_seed(seed), 0
    for _ in range(count // 100):
        clips, videos = example(100, generator, disturbed)
        shapes, colours, motions = (logits.argmax(1) for logits in classifier(videos))
        right += int(((shapes == clips.shape) & (colours == clips.colour) & (motions == clips.motion)).sum())
    return right / count


def train(seed: int, steps: int) -> ClipClassifier:
    """AdamW with a one-cycle learning rate."""
    torch.manual_seed(seed)
    classifier = ClipClassifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=0.01, fused=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        clips, videos = example(BATCH, generator, disturbed=True)
        shapes, colours, motions = classifier(videos)
        loss = F.cross_entropy(shapes, clips.shape) + F.cross_entropy(colours, clips.colour)
        loss = loss + F.cross_entropy(motions, clips.motion)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle.step()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
    return classifier.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--out", type=Path, default=bundled.text_to_video().parent / "video_classifier.safetensors")
    arguments = parser.parse_args()
    classifier = train(arguments.seed, arguments.steps)
    for name, disturbed in (("clean", False), ("disturbed", True)):
        print(f"{name} renders: {accuracy(classifier, 10_000, disturbed):.4f}")
    save_file({name: value.half() for name, value in classifier.state_dict().items()}, arguments.out)
