"""Do coupled videos of the bundled model move together, and do they still show their prompts?

Films pairs of prompts that share a motion and differ in shape and colour, uncoupled and under each setting, all from
the same seeds, and prints one row a setting: mean per-frame distance of the centroids, the share of videos whose shape,
colour and motion a classifier trained on renders reads right, and how many of those read right uncoupled still are.

    python benchmarks/video_alignment.py --pairs 100
"""

import argparse
import json
import time
from statistics import fmean

from diffusers import WanPipeline

from couple import weights
from couple.bundled import TEXT_TO_VIDEO_DEFAULTS, text_to_video
from couple.reproduce.pairs import sampled, video_prompts, video_scores

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


def scores(pipeline, pairs, name, settings) -> dict[str, list[float]]:
    """Film all pairs under a setting and score them."""
    outputs = sampled(pipeline, pairs, LAWS.get(name), settings, shared_noise=name == "shared noise")
    return video_scores(pairs, [output.frames.float().clamp(0, 1) for output in outputs])


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
    pairs = video_prompts(arguments.pairs, seed=0)
    before = scores(pipeline, pairs, "uncoupled", settings)["accuracy"]
    for name in arguments.only:
        started = time.perf_counter()
        found = scores(pipeline, pairs, name, settings)
        line = {"law": name, "pairs": len(pairs), "steps": arguments.steps, "guidance": arguments.guidance}
        line |= {part: round(fmean(values), 3) for part, values in found.items()}
        kept = [now == 1 for now, then in zip(found["accuracy"], before, strict=True) if then == 1]
        line["kept"] = round(fmean(kept), 3)
        print(json.dumps(line | {"seconds": round(time.perf_counter() - started, 1)}), flush=True)


if __name__ == "__main__":
    main()
