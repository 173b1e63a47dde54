"""Edit all views of a scene: each alone, all from the first one edited, and the two models coupled.

    python recipes/multiview_edit.py --prompt "change the light" --out out/recipe
    python recipes/multiview_edit.py SCENE --editor controlnet --multiview seva --prompt "a winter scene"

The plain library use behind `couple edit`; copy it and edit it. Without --editor and --multiview the bundled models
run.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

import couple
from couple import bundled
from couple.backends import editor_calls, editors, views
from couple.cli.clips import write_mp4
from couple.cli.folder import RECORD, whole_folder
from couple.cli.montage import side_by_side
from couple.cli.sheet import Row, contact_sheet
from couple.scenes import moving


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("scene", nargs="?", help="folder of posed pictures; the bundled scene if left out")
    parser.add_argument("--editor", choices=editors.PIPELINES)
    parser.add_argument("--multiview", choices=views.FAMILIES)
    parser.add_argument("--editor-model", help="folder or hub id in place of the published one")
    parser.add_argument("--multiview-model", help="folder or hub id in place of the published one")
    parser.add_argument("--prompt", default="change the light")
    parser.add_argument("--move", nargs=3, type=float, help="move the masked object along x, y and z first")
    parser.add_argument("--environment", type=Path, help="light for neural-gaffer")
    parser.add_argument("--views", type=int, default=6, help="how many, from the first on")
    parser.add_argument("--size", type=int, default=576, help="side in pixels; that of the bundled models is fixed")
    parser.add_argument("--weight", type=float, default=1.0, help="kappa of the weight law `relax`")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/multiview_edit"))
    chosen = parser.parse_args(arguments)
    own = chosen.editor is None and chosen.multiview is None
    by, to = chosen.editor or "instruct", chosen.multiview or "seva"
    size = (48, 48) if own else (chosen.size, chosen.size)

    scene = couple.scenes.load(chosen.scene or bundled.scene()).fitted(*size)[: chosen.views]
    editor = editors.load(by, bundled.instruct() if own else chosen.editor_model)
    model = views.load(to, bundled.views() if own else chosen.multiview_model)
    shown = editor_calls.arguments(
        by,
        scene,
        prompt=chosen.prompt,
        coarse=moving.moved(scene, chosen.move) if chosen.move else None,
        bundled=own,
        environment_map=editor_calls.read_light(chosen.environment) if chosen.environment else None,
    )

    def trajectory(pipeline, name: str, seed: int, call: dict, defaults: Mapping) -> couple.Trajectory:
        call = {**call, **defaults, "num_inference_steps": chosen.steps}
        return couple.Trajectory(pipeline, name=name, generator=torch.Generator().manual_seed(seed), **call)

    edit_defaults, view_defaults = (bundled.INSTRUCT_DEFAULTS, bundled.VIEWS_DEFAULTS) if own else ({}, {})

    # The editor alone, on all views; what it makes of the first is the multi-view model's reference.
    per_image = trajectory(editor, "per image", chosen.seed, shown, edit_defaults)
    edits = couple.sample([per_image])[per_image].images
    posed = views.arguments(to, model, edits[0], scene.cameras, 0, prompt=chosen.prompt)

    # The multi-view model alone and, from the same noise, coupled with the editor view by view; its sample is kept.
    alone = trajectory(model, "image to multi-view", chosen.seed + 1, posed, view_defaults)
    kept = trajectory(model, "coupled", chosen.seed + 1, posed, view_defaults)
    beside = trajectory(editor, "editor", chosen.seed, shown, edit_defaults)
    rows = views.rows(to, len(scene), reference=0)
    law = couple.weights.relax(chosen.weight)
    edges = views.joined(kept, beside, rows, weight=law, size=size, editor_size=size)
    result = couple.sample([alone, kept, beside], edges)

    ways = {"input": scene.pictures(), "per-image": edits}
    ways |= {node.name: [result[node].images[row] for row in rows] for node in (alone, kept)}
    with whole_folder(chosen.out) as folder:
        for name, pictures in ways.items():
            couple.scenes.save(folder / name.replace(" ", "-"), scene.cameras, pictures)
        labels = [f"view {k}" for k in range(len(scene))]
        contact_sheet([Row(name, "", pictures) for name, pictures in ways.items()], labels).save(folder / "sheet.png")
        frames = side_by_side({"": list(ways.values())}, list(ways))
        write_mp4(folder / "orbit.mp4", [*frames, *frames[-2:0:-1]], fps=6)
        (folder / RECORD).write_text(json.dumps(vars(chosen), default=str, indent=2))
    print(chosen.out / "sheet.png")


if __name__ == "__main__":
    main()
