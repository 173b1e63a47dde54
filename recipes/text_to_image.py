"""Draw one picture for each prompt, each alone and all coupled, from the same seeds.

    python recipes/text_to_image.py "a pink star" "a blue moon" --out out/recipe

The plain library use behind `couple image`; copy it and edit it. Another model has another best weight.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import FluxPipeline

import couple
from couple.bundled import TEXT_TO_IMAGE_DEFAULTS, TEXT_TO_IMAGE_UNTIL, text_to_image
from couple.cli.sheet import Row, contact_sheet


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="at least two")
    parser.add_argument("--weight", type=float, default=1.0, help="kappa of the weight law `relax`")
    parser.add_argument("--steps", type=int, default=TEXT_TO_IMAGE_DEFAULTS["num_inference_steps"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/text_to_image"))
    chosen = parser.parse_args(arguments)

    pipe = FluxPipeline.from_pretrained(text_to_image())

    def trajectories(row: str) -> list[couple.Trajectory]:
        return [
            couple.Trajectory(
                pipe,
                name=f"{prompt} ({row})",
                prompt=prompt,
                generator=torch.Generator().manual_seed(chosen.seed + i),
                **TEXT_TO_IMAGE_DEFAULTS | {"num_inference_steps": chosen.steps},
            )
            for i, prompt in enumerate(chosen.prompts)
        ]

    rows = {row: trajectories(row) for row in ("uncoupled", "coupled")}
    law = couple.weights.window(couple.weights.relax(chosen.weight), 0.0, TEXT_TO_IMAGE_UNTIL)
    edges = couple.complete(rows["coupled"], weight=law, normalize=True)
    result = couple.sample([*rows["uncoupled"], *rows["coupled"]], edges)

    chosen.out.mkdir(parents=True, exist_ok=True)
    pictures = {row: [result[node].images[0] for node in nodes] for row, nodes in rows.items()}
    for row in rows:
        for i, picture in enumerate(pictures[row], 1):
            picture.save(chosen.out / f"{row}-{i}.png")
    contact_sheet([Row(row, "", pictures[row]) for row in rows], chosen.prompts).save(chosen.out / "sheet.png")
    print(chosen.out / "sheet.png")


if __name__ == "__main__":
    main()
