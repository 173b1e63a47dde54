"""Make the pictures of the documentation: what the bundled models draw, and plots of the weight laws.

    python docs/gallery.py                     # all of them, into docs/gallery
    python docs/gallery.py crowd laws --steps 4 --out out/gallery

Every picture is one function of the number of steps, drawn from fixed seeds.
"""

import argparse
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline, WanPipeline
from matplotlib.figure import Figure
from PIL import Image

import couple
from benchmarks import laws as gaps_of_laws
from couple import bundled, energies, weights
from couple.backends import flux
from couple.cli.sheet import Row, contact_sheet

HERE = Path(__file__).parent
STAR, MOON = "a pink star", "a blue moon"
#: Of the latents of the bundled text-to-image model, for a picture of 64 pixels.
SIDE = 16


@cache
def drawer() -> Any:
    """The bundled text-to-image pipeline, loaded once."""
    return FluxPipeline.from_pretrained(bundled.text_to_image())


def trajectories(prompts: Sequence[str], steps: int, seed: int = 10) -> list[couple.Trajectory]:
    """One for each prompt; prompt number i starts from the noise of seed + i."""
    call = {**bundled.TEXT_TO_IMAGE_DEFAULTS, "num_inference_steps": steps}
    return [
        couple.Trajectory(drawer(), prompt=prompt, generator=torch.Generator().manual_seed(seed + i), **call)
        for i, prompt in enumerate(prompts)
    ]


def early(weight: float | weights.Law, until: float = bundled.TEXT_TO_IMAGE_UNTIL) -> weights.Law:
    """A weight that lets go after a share of the run."""
    return weights.window(weight, 0.0, until)


def drawn(nodes: Sequence[couple.Trajectory], edges: Sequence[couple.Edge]) -> list[Image.Image]:
    """What the trajectories show."""
    result = couple.sample(nodes, edges, progress=False)
    return [result[node].images[0] for node in nodes]


def pair_under(steps: int, energy: Any = energies.squared_distance, **options: Any) -> list[Image.Image]:
    """A star and a moon joined by one edge; an energy that looks at places sees tokens unpacked."""
    star, moon = trajectories([STAR, MOON], steps)
    views = star, moon
    if energy is not energies.squared_distance:
        unpack = partial(flux.unpack, height=SIDE, width=SIDE)
        views = star.through(unpack), moon.through(unpack)
    return drawn([star, moon], couple.pair(*views, energy=energy, **options))


def crowd(steps: int) -> Image.Image:
    """Five prompts joined each to each."""
    prompts = [f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}" for colour, shape in (
        ("pink", "star"), ("blue", "moon"), ("green", "heart"), ("orange", "square"), ("purple", "triangle"),
    )]  # fmt: skip
    alone, together = (trajectories(prompts, steps, seed=3) for _ in range(2))
    edges = couple.complete(together, weight=early(weights.relax(1.0)), normalize=True)
    rows = [Row("uncoupled", "", drawn(alone, [])), Row("coupled", "complete graph", drawn(together, edges))]
    return contact_sheet(rows, prompts, height=144)


def follow(steps: int) -> Image.Image:
    """An edge without a direction, and one with."""
    law = early(weights.relax(1.0))
    rows = [
        Row("uncoupled", "", pair_under(steps, weight=0.0)),
        Row("both move", "pair(star, moon)", pair_under(steps, weight=law)),
        Row("moon follows", "directed=True", pair_under(steps, weight=law, directed=True)),
    ]
    return contact_sheet(rows, [STAR, MOON], height=144)


def centre(latents: torch.Tensor) -> torch.Tensor:
    """Rows and columns, weighted by how far the latents are from those of the dark ground at the border."""
    ground = latents[..., :1, :1]
    mass = (latents - ground).square().mean(1)
    mass = mass / mass.sum((1, 2), keepdim=True)
    places = torch.arange(latents.shape[-1], dtype=latents.dtype, device=latents.device)
    return torch.stack([(mass.sum(2) * places).sum(1), (mass.sum(1) * places).sum(1)], 1)


def same_centre(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """An energy that knows places and nothing else: the squared distance of centres, times what suits these latents."""
    return 30 * (centre(a) - centre(b)).square().sum()


def kinds(steps: int) -> Image.Image:
    """The same pair under several energies."""
    law = early(weights.relax(1.0), 0.3)
    rows = [Row("uncoupled", "", pair_under(steps, weight=0.0))]
    rows += [
        Row(name, "", pair_under(steps, energy, weight=law))
        for name, energy in (
            ("squared_distance", energies.squared_distance),
            ("huber(0.5)", energies.huber(0.5)),
            ("low_pass(4)", energies.low_pass(4)),
            ("cosine", energies.cosine),
            ("same_centre", same_centre),
        )
    ]
    return contact_sheet(rows, [STAR, MOON], height=144)


def until(steps: int) -> Image.Image:
    """What a pull that is held too long does."""
    rows = [
        Row(f"while progress < {stop:g}", "", pair_under(steps, weight=early(weights.relax(1.0), stop)))
        for stop in (0.1, 0.2, 0.3, 0.5, 1.0)
    ]
    return contact_sheet([Row("uncoupled", "", pair_under(steps, weight=0.0)), *rows], [STAR, MOON], height=144)


def videos(steps: int) -> Image.Image:
    """Every third frame of two clips."""
    pipe = WanPipeline.from_pretrained(bundled.text_to_video())
    prompts = ["a pink star circles", "a blue square circles"]
    rows = []
    for way, law in (("uncoupled", 0.0), ("coupled", early(weights.relax(1.0), bundled.TEXT_TO_VIDEO_UNTIL))):
        call = {**bundled.TEXT_TO_VIDEO_DEFAULTS, "num_inference_steps": steps, "output_type": "pil"}
        nodes = [
            couple.Trajectory(pipe, prompt=prompt, generator=torch.Generator().manual_seed(i), **call)
            for i, prompt in enumerate(prompts)
        ]
        result = couple.sample(nodes, couple.pair(*nodes, weight=law), progress=False)
        rows += [
            Row(way, prompt, result[node].frames[0][::3], apart=way == "coupled" and node is nodes[0])
            for prompt, node in zip(prompts, nodes, strict=True)
        ]
    return contact_sheet(rows, [f"frame {k}" for k in range(0, 13, 3)], height=96)


def laws(steps: int) -> Figure:
    """By how much a step of each law moves x0, as a share of the difference, over a run of flow Euler."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.subplots()
    levels = [
        weights.Level.landing(
            progress=i / steps, alpha=i / steps, sigma=1 - i / steps, alpha_next=(i + 1) / steps,
            sigma_next=1 - (i + 1) / steps,
        )
        for i in range(steps - 1)
    ]  # fmt: skip
    for law in (*gaps_of_laws.LAWS, weights.relax(1.0, decay=0.0), weights.cosine(0.3, 0.0)):
        shares = [law(level) * level.sigma / level.alpha for level in levels]
        label = gaps_of_laws.name(law) if not isinstance(law, weights.cosine) else "cosine(0.3, 0)"
        if isinstance(law, weights.relax) and law.decay == 0:
            label = "relax(1, decay=0)"
        axes.plot([level.progress for level in levels], shares, label=label)
    axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="progress", ylabel="share of the difference (log)", title=f"flow Euler, {steps} steps")
    axes.set(yscale="log", ylim=(0.005, 10), yticks=(ticks := (0.01, 0.05, 0.1, 0.5, 1, 5)), yticklabels=ticks)
    axes.minorticks_off()
    axes.legend(fontsize=8, ncols=2)
    return figure


def gaps(steps: int) -> Figure:
    """The gap that is left of 2 by sampler, law and number of steps; at 24 those of the README."""
    counts = sorted({max(2, round(count * steps / 24)) for count in gaps_of_laws.STEPS})
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for axes, sampler in zip(figure.subplots(1, 3, sharey=True), gaps_of_laws.SAMPLERS, strict=True):
        for law in gaps_of_laws.LAWS:
            left = [gaps_of_laws.gap(sampler, count, law) for count in counts]
            axes.plot(counts, left, marker="o", markersize=3, label=gaps_of_laws.name(law))
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set(title=sampler, xlabel="steps", xscale="log", xticks=counts, xticklabels=counts)
        axes.minorticks_off()
    figure.axes[0].set_ylabel("gap (2 uncoupled, 0 agreement)")
    figure.axes[-1].legend(fontsize=7)
    return figure


PICTURES: dict[str, Callable[[int], Image.Image | Figure]] = {
    picture.__name__: picture for picture in (crowd, follow, kinds, until, videos, laws, gaps)
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and make what it names."""
    parser = argparse.ArgumentParser(description="Make the pictures of the documentation.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(PICTURES)}; all if none is given")
    parser.add_argument("--steps", type=int, default=24, help="2 or more")
    parser.add_argument("--out", type=Path, default=HERE / "gallery")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.names) - set(PICTURES):
        parser.error(f"there is no picture {', '.join(sorted(unknown))}; choose from {', '.join(PICTURES)}")
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name in chosen.names or PICTURES:
        picture = PICTURES[name](chosen.steps)
        path = chosen.out / f"{name}.png"
        if isinstance(picture, Figure):
            picture.savefig(path, dpi=110)
        else:
            picture.save(path, optimize=True)
        print(path)


if __name__ == "__main__":
    main()
