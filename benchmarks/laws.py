"""How far each weight law closes a gap of 2, by sampler and number of steps: the table of the README.

Two exact Gaussian denoisers, means +1 and -1, standard deviation 0.5, joined by one edge. Everything is linear, so
two runs that share their noise differ by exactly the expected gap of two runs that do not: no averaging is needed.
0 is full agreement, 2 is none, and a negative gap has gone past agreement.
"""

import warnings

import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

import couple
from couple import weights

SAMPLERS = {
    "flow Euler": lambda: FlowMatchEulerDiscreteScheduler(),
    "DDIM": lambda: DDIMScheduler(clip_sample=False),
    "DDPM": lambda: DDPMScheduler(clip_sample=False),
}
LAWS = (weights.constant(0.1), weights.rate(0.1), weights.relax(0.3), weights.relax(1.0), weights.implicit(0.5))
STEPS = (10, 20, 50, 200)


def gap(sampler: str, steps: int, weight: weights.Law) -> float:
    """The signed gap of two coupled samples whose uncoupled gap is 2."""
    runs = [
        couple.Trajectory(
            couple.DenoiserPipeline(couple.ExactDenoiser.gaussian(torch.tensor([mean]), 0.5), SAMPLERS[sampler]()),
            shape=(1, 1),
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(0),
            dtype=torch.float64,
        )
        for mean in (1.0, -1.0)
    ]
    with warnings.catch_warnings():
        # That a law pulls too hard is a finding here.
        warnings.simplefilter("ignore", RuntimeWarning)
        result = couple.sample(runs, couple.pair(*runs, weight=weight), progress=False)
    return float(result[runs[0]] - result[runs[1]])


def name(law: weights.Law) -> str:
    """The law as it is written in code."""
    return f"{type(law).__name__}({next(iter(vars(law).values())):g})"


def table(steps: tuple[int, ...] = STEPS) -> str:
    """The gaps as a Markdown table: a row for each sampler and number of steps, a column for each law."""
    lines = ["| sampler | steps | " + " | ".join(f"`{name(law)}`" for law in LAWS) + " |"]
    lines.append("|---|--:|" + "--:|" * len(LAWS))
    for sampler in SAMPLERS:
        for count in steps:
            gaps = " | ".join(f"{gap(sampler, count, law):.2f}" for law in LAWS)
            lines.append(f"| {sampler} | {count} | {gaps} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
