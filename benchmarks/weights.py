"""Do coupled pictures of the bundled model agree in place and outline, and do they still show their prompts?

Draws pairs of prompts that differ in shape and colour, uncoupled and under every combination of weight law, sampler and
number of steps that is asked for, all from the same seeds, and prints one row a combination: mean centroid distance and
mask IoU (alignment), and the share of pictures whose shape and colour a classifier trained on renders reads right
(fidelity).

    python -m benchmarks.weights --pairs 100
    python -m benchmarks.weights --laws uncoupled "relax 1 to .2" --samplers euler stochastic unipc --steps 12 24 48
"""

from __future__ import annotations

import itertools
from statistics import fmean

from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, UniPCMultistepScheduler

from benchmarks import harness
from couple import weights
from couple.bundled import TEXT_TO_IMAGE_DEFAULTS, text_to_image
from couple.reproduce.pairs import image_prompts, image_scores, sampled

LAWS = {
    "uncoupled": None,
    "shared noise": None,
    "constant .03": weights.constant(0.03),
    "relax 1": weights.relax(1.0),
    "relax .1": weights.relax(0.1),
    "relax 3 to .2": weights.window(weights.relax(3.0), 0.0, 0.2),
    "relax 1 to .2": weights.window(weights.relax(1.0), 0.0, 0.2),
    "relax 1 to .3": weights.window(weights.relax(1.0), 0.0, 0.3),
    "relax .3 to .3": weights.window(weights.relax(0.3), 0.0, 0.3),
    "relax 1 to .4": weights.window(weights.relax(1.0), 0.0, 0.4),
}
SAMPLERS = {
    "euler": lambda config: FlowMatchEulerDiscreteScheduler.from_config(config),
    "stochastic": lambda config: FlowMatchEulerDiscreteScheduler.from_config(config, stochastic_sampling=True),
    "unipc": lambda config: UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=config.shift
    ),
}


def main() -> None:
    """Print one JSON line a combination."""
    steps = [TEXT_TO_IMAGE_DEFAULTS["num_inference_steps"]]
    guidance = TEXT_TO_IMAGE_DEFAULTS["true_cfg_scale"]
    chosen = harness.options(__doc__, pairs=100, laws=[*LAWS], samplers=["euler"], steps=steps, guidance=guidance)
    pipeline = FluxPipeline.from_pretrained(text_to_image())
    config, pairs = pipeline.scheduler.config, image_prompts(chosen.pairs, seed=0)
    for sampler, steps, law in itertools.product(chosen.samplers, chosen.steps, chosen.laws):
        pipeline.scheduler = SAMPLERS[sampler](config)
        settings = {**TEXT_TO_IMAGE_DEFAULTS, "num_inference_steps": steps, "true_cfg_scale": chosen.guidance}
        outputs = sampled(pipeline, pairs, LAWS[law], settings, shared_noise=law == "shared noise")
        scores = image_scores(pairs, [output.images.float().clamp(0, 1) for output in outputs])
        figures = {part: fmean(values) for part, values in scores.items()}
        harness.report(
            "weights", law, sampler=sampler, steps=steps, guidance=chosen.guidance, pairs=chosen.pairs, **figures
        )


if __name__ == "__main__":
    main()
