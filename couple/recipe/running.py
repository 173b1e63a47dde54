"""`run`: the samples of a recipe, each alone and coupled, in a folder with their record."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from couple import Trajectory
from couple.cli import provenance
from couple.cli.clips import write_gif, write_mp4
from couple.cli.folder import whole_folder
from couple.cli.journal import journal
from couple.cli.machine import choose_device, choose_dtype, loading_device, quiet_libraries
from couple.cli.montage import side_by_side
from couple.cli.options import Execution
from couple.cli.sampling import Sampler
from couple.cli.sheet import Row, contact_sheet
from couple.cli.stamp import finish
from couple.recipe import calls, fitting, models
from couple.recipe.reading import Recipe
from couple.recipe.sweeping import expand

#: What shows all samples at once: pictures, and clips.
SHEET, FILM = "sheet.png", "side-by-side.mp4"
#: For each row the pictures, or the clips, of each trajectory.
Samples = Mapping[str, Mapping[str, Sequence[Image.Image]]]


def run(recipe: Recipe, out: Path, device: str | None = None, execution: Execution | None = None) -> int:
    """Run a recipe, or each run of its sweep in a folder of its own inside `out`.

    Args:
        recipe: as it was read.
        out: the folder to leave behind; an earlier run there is replaced.
        device: as torch spells it; None for a GPU if there is one.
        execution: how the runs are carried out.

    Returns:
        The exit code, 0.

    Raises:
        ValueError: a model cannot be loaded, a picture not read, or a pipeline refuses what it is called with.
    """
    runs = expand(recipe)
    quiet_libraries()
    fitting.check_runs([one for _, one in runs], fetch=True)
    for name, one in runs:
        _run(one, out / name if recipe.contents.sweep else out, device, execution or Execution())
    return 0


def _run(recipe: Recipe, out: Path, device: str | None, execution: Execution) -> None:
    chosen, contents = choose_device(device), recipe.contents
    with journal() as notes, whole_folder(out) as folder:
        sampler = Sampler(execution, contents.max_batch, chosen, out, folder, notes)
        with notes.stage("load"):
            pipelines = {name: _load(recipe, name, chosen, execution) for name in models.used(recipe)}
        rows = contents.rows
        nodes = {row: _trajectories(recipe, pipelines, row) for row in rows}
        last = nodes[rows[-1]]
        joins = calls.edges(recipe, last)
        try:
            result = sampler([node for row in rows for node in nodes[row].values()], joins)
        except (TypeError, AttributeError) as error:
            # Stock pipelines check what they are called with in many ways.
            raise ValueError(f"{recipe.file}: {error}") from error
        with notes.stage("write"):
            samples = {row: {name: _pictures(result[node]) for name, node in nodes[row].items()} for row in rows}
            films = {name for name, node in last.items() if hasattr(result[node], "frames")}
            _write(folder, recipe, samples, films)
        ran = {
            name: provenance.model(
                recipe.contents.models[name].model_dump_json(exclude_none=True),
                pipeline,
                call=_shared(last, pipeline),
                seeds=[one.seed for one in contents.trajectories.values() if one.model == name],
            )
            for name, pipeline in pipelines.items()
        }
        record = provenance.written(
            "run",
            {"file": str(recipe.file), "contents": recipe.written, "device": device},
            models=ran,
            edges=joins,
            sampled=[result],
            max_batch=contents.max_batch,
            notes=notes,
            inputs=calls.inputs(recipe),
            results={},
        )
        finish(folder, record)
    sampler.forget()
    if not contents.edges:
        print(f"couple: {recipe.file} has no [[edges]]; nothing was coupled", file=sys.stderr)
    print(next((out / name for name in (SHEET, FILM) if (out / name).exists()), out))


def _load(recipe: Recipe, name: str, device: torch.device, execution: Execution) -> Any:
    model = recipe.contents.models[name]
    dtype = choose_dtype(model.dtype, device, bundled=model.bundled is not None)
    return models.load(recipe, name, dtype=dtype, device=loading_device(device, execution))


def _trajectories(recipe: Recipe, pipelines: Mapping[str, Any], row: str) -> dict[str, Trajectory]:
    return {
        name: Trajectory(
            pipelines[one.model],
            name=f"{name} ({row})",
            generator=torch.Generator().manual_seed(one.seed),
            output_type="pil",
            **calls.arguments(recipe, name, pipelines[one.model]),
        )
        for name, one in recipe.contents.trajectories.items()
    }


def _shared(nodes: Mapping[str, Trajectory], pipeline: Any) -> dict[str, Any]:
    """What all calls of a pipeline have in common."""
    first, *others = [node.call_kwargs for node in nodes.values() if node.pipeline is pipeline]
    plain = {key: value for key, value in first.items() if isinstance(value, bool | int | float | str)}
    return {key: value for key, value in plain.items() if all(other.get(key) == value for other in others)}


def _pictures(answer: Any) -> Sequence[Image.Image]:
    return answer.frames[0] if hasattr(answer, "frames") else answer.images


def _write(folder: Path, recipe: Recipe, samples: Samples, films: set[str]) -> None:
    """Each picture or clip, a sheet of the pictures, and the clips side by side if they are of one length."""
    fps = recipe.contents.output.fps
    for row, made in samples.items():
        for name, pictures in made.items():
            stem = f"{row}-{name}"
            if name in films:
                write_mp4(folder / f"{stem}.mp4", pictures, fps)
                write_gif(folder / f"{stem}.gif", pictures, fps)
            else:
                for k, picture in enumerate(pictures):
                    picture.save(folder / (f"{stem}.png" if len(pictures) == 1 else f"{stem}-{k}.png"))
    last = list(samples.values())[-1]
    drawn = [name for name in last if name not in films]
    if drawn:
        rows = [Row(row, "", [picture for name in drawn for picture in made[name]]) for row, made in samples.items()]
        labels = [_label(recipe, name) for name in drawn for _ in last[name]]
        contact_sheet(rows, labels).save(folder / SHEET)
    shown = [name for name in last if name in films]
    if shown and len({len(last[name]) for name in shown}) == 1:
        clips = {row: [made[name] for name in shown] for row, made in samples.items()}
        together = side_by_side(clips, [_label(recipe, name) for name in shown])
        write_mp4(folder / FILM, together, fps)


def _label(recipe: Recipe, name: str) -> str:
    return recipe.contents.trajectories[name].prompt or name
