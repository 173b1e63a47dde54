"""Do coupled videos of the bundled model move together, and do they still show their prompts?

Films pairs of prompts that share a motion and differ in shape and colour, uncoupled and under each setting, all from
the same seeds, and prints one row a setting: mean per-frame distance of the centroids, the share of videos whose shape,
colour and motion a classifier trained on renders reads right, and how many of those read right uncoupled still are.

    python benchmarks/video_alignment.py --pairs 100
"""

import argparse
import json
import time

import torch
from diffusers import WanPipeline
from pairs import sampled, two

from couple import weights
from couple.bundled import COLOURS, MOTIONS, SPRITES, TEXT_TO_VIDEO_DEFAULTS, text_to_video
from couple.metrics.clips import ClipClassifier, path_distance

LAWS = {
    "uncoupled": None,
    "constant .03": weights.constant(0.03),
    "constant .1": weights.constant(0.1),
    "relax 1": weights.relax(1.0),
    "relax 1 to .15": weights.window(weights.relax(1.0), 0.0, 0.15),
    "relax 1 to .2": weights.window(weights.relax(1.0), 0.0, 0.2),
    "relax 1 to .3": weights.window(weights.relax(1.0), 0.0, 0.3),
    "relax .3 to .3": weights.window(weights.relax(0.3), 0.0, 0.3),
    "relax 1 to .4": weights.window(weights.relax(1.0), 0.0, 0.4),
    "relax .3 to .4": weights.window(weights.relax(0.3), 0.0, 0.4),
}

Wanted = tuple[str, str, str]


def prompt_pairs(count: int, seed: int) -> list[tuple[Wanted, Wanted]]:
    """Pairs of (colour, shape, motion) that differ in colour and shape; the motions come in turn."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for k in range(count):
        motion = MOTIONS[k % len(MOTIONS)]
        (colour, other_colour), (shape, other_shape) = two(COLOURS, generator), two(SPRITES, generator)
        pairs.append(((colour, shape, motion), (other_colour, other_shape, motion)))
    return pairs


def film(pipeline, pairs, weight, settings, shared_noise=False) -> list[torch.Tensor]:
    """Both videos of every pair, two tensors (pairs, F, 3, H, W) in [0, 1]."""
    return [output.frames.float().clamp(0, 1) for output in sampled(pipeline, pairs, weight, settings, shared_noise)]


def judge(pairs, videos) -> torch.Tensor:
    """Whether colour, shape and motion are right, bool, shape (2, pairs, 3)."""
    classifier = ClipClassifier.bundled()
    return torch.tensor(
        [
            [[a == b for a, b in zip(name, pair[side], strict=True)] for name, pair in zip(names, pairs, strict=True)]
            for side, names in enumerate(classifier.name(one) for one in videos)
        ]
    )


def main() -> None:
    """Print one JSON line a setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=96)
    parser.add_argument("--steps", type=int, default=TEXT_TO_VIDEO_DEFAULTS["num_inference_steps"])
    parser.add_argument("--guidance", type=float, default=TEXT_TO_VIDEO_DEFAULTS["guidance_scale"])
    parser.add_argument("--only", nargs="*", default=[*LAWS, "shared noise"])
    arguments = parser.parse_args()
    pipeline = WanPipeline.from_pretrained(text_to_video())
    settings = dict(TEXT_TO_VIDEO_DEFAULTS)
    settings |= {"num_inference_steps": arguments.steps, "guidance_scale": arguments.guidance}
    pairs = prompt_pairs(arguments.pairs, seed=0)
    before = judge(pairs, film(pipeline, pairs, None, settings)).all((0, 2))
    for name in arguments.only:
        started = time.perf_counter()
        videos = film(pipeline, pairs, LAWS.get(name), settings, shared_noise=name == "shared noise")
        right = judge(pairs, videos)
        line = {"law": name, "pairs": len(pairs), "steps": arguments.steps, "guidance": arguments.guidance}
        line["distance"] = round(path_distance(*videos).mean().item(), 2)
        shares = right.float().mean((0, 1)).tolist()
        line |= {part: round(share, 3) for part, share in zip(("colour", "shape", "motion"), shares, strict=True)}
        line["accuracy"] = round(right.all(2).float().mean().item(), 3)
        line["kept"] = round(right.all((0, 2))[before].float().mean().item(), 3)
        print(json.dumps(line | {"seconds": round(time.perf_counter() - started, 1)}), flush=True)


if __name__ == "__main__":
    main()
