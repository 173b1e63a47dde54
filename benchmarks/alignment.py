"""Do coupled pictures of the bundled model agree in place and outline, and do they still show their prompts?

Draws pairs of prompts that differ in shape and colour, uncoupled and under each setting, all from the same seeds, and
prints one row a setting: mean centroid distance, mask IoU, and the share of pictures whose shape and colour a
classifier trained on renders reads right.

    python benchmarks/alignment.py --pairs 100
"""

import argparse
import json
import time
from statistics import fmean

from diffusers import FluxPipeline

from couple import weights
from couple.bundled import TEXT_TO_IMAGE_DEFAULTS, text_to_image
from couple.reproduce.pairs import image_prompts, image_scores, sampled

LAWS = {
    "uncoupled": None,
    "constant .03": weights.constant(0.03),
    "relax 1": weights.relax(1.0),
    "relax .1": weights.relax(0.1),
    "relax 3 to .2": weights.window(weights.relax(3.0), 0.0, 0.2),
    "relax 1 to .2": weights.window(weights.relax(1.0), 0.0, 0.2),
    "relax 1 to .3": weights.window(weights.relax(1.0), 0.0, 0.3),
    "relax .3 to .3": weights.window(weights.relax(0.3), 0.0, 0.3),
    "relax 1 to .4": weights.window(weights.relax(1.0), 0.0, 0.4),
}


def main() -> None:
    """Print one JSON line a setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--steps", type=int, default=TEXT_TO_IMAGE_DEFAULTS["num_inference_steps"])
    parser.add_argument("--guidance", type=float, default=TEXT_TO_IMAGE_DEFAULTS["true_cfg_scale"])
    parser.add_argument("--only", nargs="*", default=[*LAWS, "shared noise"])
    arguments = parser.parse_args()
    pipeline = FluxPipeline.from_pretrained(text_to_image())
    settings = dict(TEXT_TO_IMAGE_DEFAULTS)
    settings |= {"num_inference_steps": arguments.steps, "true_cfg_scale": arguments.guidance}
    pairs = image_prompts(arguments.pairs, seed=0)
    for name in arguments.only:
        started = time.perf_counter()
        outputs = sampled(pipeline, pairs, LAWS.get(name), settings, shared_noise=name == "shared noise")
        scores = image_scores(pairs, [output.images.float().clamp(0, 1) for output in outputs])
        line = {"law": name, "pairs": len(pairs), "steps": arguments.steps, "guidance": arguments.guidance}
        line |= {part: round(fmean(values), 3) for part, values in scores.items()}
        line |= {"seconds": round(time.perf_counter() - started, 1)}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
