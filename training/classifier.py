"""Trains the judge of the bundled model on renders alone: `python training/classifier.py` (a few minutes on one core).

Renders are blurred, brightened and speckled a little so that the judge does not stumble over a generator's texture;
it never sees a generated picture. Accuracy is measured on 5000 clean and 5000 disturbed renders it has not seen.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from world import Scene, random_scene, render

from couple import bundled
from couple.metrics.faithfulness import RenderClassifier

BATCH = 64


def disturb(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Blur (half of them), brighten or dim by 10 %, and add noise of up to 0.05; pictures (B, 3, H, W) in [0, 1]."""
    blurred = F.avg_pool2d(pictures, 3, stride=1, padding=1, count_include_pad=False)
    share = torch.rand(len(pictures), 1, 1, 1, generator=generator) * 2 - 1
    pictures = torch.lerp(pictures, blurred, share.clamp(min=0))
    gain = 0.9 + 0.2 * torch.rand(len(pictures), 3, 1, 1, generator=generator)
    gain = 0.5 * gain + 0.5 * gain.mean(1, keepdim=True)
    noise = torch.randn(pictures.shape, generator=generator)
    level = 0.05 * torch.rand(len(pictures), 1, 1, 1, generator=generator)
    return (pictures * gain + level * noise).clamp(0, 1)


def example(count: int, generator: torch.Generator) -> tuple[Scene, Tensor]:
    """Random scenes and their renders in [0, 1]."""
    scene = random_scene(count, generator)
    return scene, render(scene) / 2 + 0.5


@torch.no_grad()
def accuracy(classifier: RenderClassifier, seed: int, disturbed: bool, count: int = 5000) -> float:
    """Share of renders named right in both shape and colour."""
    generator, right = torch.Generator().manual_seed(seed), 0
    for _ in range(count // 250):
        scene, pictures = example(250, generator)
        shapes, colours = classifier(disturb(pictures, generator) if disturbed else pictures)
        right += int(((shapes.argmax(1) == scene.shape) & (colours.argmax(1) == scene.colour)).sum())
    return right / count


def train(seed: int, steps: int) -> RenderClassifier:
    """AdamW with a one-cycle learning rate."""
    torch.manual_seed(seed)
    classifier = RenderClassifier()
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=0.01, fused=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        scene, pictures = example(BATCH, generator)
        shapes, colours = classifier(disturb(pictures, generator))
        loss = F.cross_entropy(shapes, scene.shape) + F.cross_entropy(colours, scene.colour)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle.step()
        if (step + 1) % 200 == 0:
            print(f"step {step + 1}: loss {loss.item():.4f}", flush=True)
    return classifier.eval()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=bundled.text_to_image().parent / "classifier.safetensors")
    arguments = parser.parse_args()
    classifier = train(arguments.seed, arguments.steps)
    for name, disturbed in (("clean", False), ("disturbed", True)):
        print(f"{name} renders: {accuracy(classifier, 10_000, disturbed):.4f}")
    save_file({name: value.half() for name, value in classifier.state_dict().items()}, arguments.out)
