"""Film one video for each prompt, each alone and all coupled, from the same seeds.

    python recipes/text_to_video.py "a pink star circles" "a blue square circles" --out out/recipe

The plain library use behind `couple video`; copy it and edit it. Another model has another best weight.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import WanPipeline

import couple
from couple.bundled import TEXT_TO_VIDEO_DEFAULTS, TEXT_TO_VIDEO_UNTIL, text_to_video
from couple.cli.clips import write_gif, write_mp4
from couple.cli.montage import side_by_side


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="at least two")
    parser.add_argument("--weight", type=float, default=1.0, help="kappa of the weight law `relax`")
    parser.add_argument("--steps", type=int, default=TEXT_TO_VIDEO_DEFAULTS["num_inference_steps"])
    parser.add_argument("--fps", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/text_to_video"))
    chosen = parser.parse_args(arguments)

    pipe = WanPipeline.from_pretrained(text_to_video())

    def trajectories(row: str) -> list[couple.Trajectory]:
        return [
            couple.Trajectory(
                pipe,
                name=f"{prompt} ({row})",
                prompt=prompt,
                generator=torch.Generator().manual_seed(chosen.seed + i),
                output_type="pil",
                **TEXT_TO_VIDEO_DEFAULTS | {"num_inference_steps": chosen.steps},
            )
            for i, prompt in enumerate(chosen.prompts)
        ]

    rows = {row: trajectories(row) for row in ("uncoupled", "coupled")}
    law = couple.weights.window(couple.weights.relax(chosen.weight), 0.0, TEXT_TO_VIDEO_UNTIL)
    edges = couple.complete(rows["coupled"], weight=law, normalize=True)
    result = couple.sample([*rows["uncoupled"], *rows["coupled"]], edges)

    chosen.out.mkdir(parents=True, exist_ok=True)
    clips = {row: [result[node].frames[0] for node in nodes] for row, nodes in rows.items()}
    for row in rows:
        for i, frames in enumerate(clips[row], 1):
            write_mp4(chosen.out / f"{row}-{i}.mp4", frames, chosen.fps)
            write_gif(chosen.out / f"{row}-{i}.gif", frames, chosen.fps)
    write_mp4(chosen.out / "side-by-side.mp4", side_by_side(clips, chosen.prompts), chosen.fps)
    print(chosen.out / "side-by-side.mp4")


if __name__ == "__main__":
    main()
