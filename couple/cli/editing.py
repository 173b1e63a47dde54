"""The work behind `couple edit`: load, edit each view alone, make all views from one edit, couple the two, write.

The multi-view samples of both ways are drawn in one run from the same seed: they differ by the coupling alone. The
editor's sample beside them starts from the noise of the per-image one.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

import couple
from couple import Edge, Result, bundled, scenes
from couple.backends import editor_calls, editors, views
from couple.bundled import blocks
from couple.cli import provenance
from couple.cli.clips import enlarged, write_mp4
from couple.cli.coupling import weight_law
from couple.cli.edit import EditRequest
from couple.cli.folder import whole_folder
from couple.cli.journal import journal
from couple.cli.machine import choose_device, choose_dtype, loading_device, quiet_libraries
from couple.cli.montage import side_by_side
from couple.cli.record import Model, asked
from couple.cli.sampling import Sampler
from couple.cli.sheet import Row, contact_sheet
from couple.cli.stamp import finish
from couple.metrics.consistency import reprojection_error
from couple.scenes import Cameras, Scene, moving
from couple.scenes.edits import CoarseEdit
from couple.scenes.pictures import read_picture, to_pictures, to_tensor

#: Steps of the published models, unlike the defaults of their pipelines equal for both.
STEPS = 50
#: Height of a picture on the sheet, in pixels, and views a second in the video.
_SHEET, _FPS = 192, 6


class Way(NamedTuple):
    """One of the ways of making all views: its pictures and the cameras that belong to them."""

    pictures: Sequence[Image.Image]
    cameras: Cameras


class Sampled(NamedTuple):
    """What the two models made, by view in the order of the views, and how they were called."""

    per_image: Sequence[Image.Image]
    image_to_multi_view: Sequence[Image.Image]
    coupled: Sequence[Image.Image]
    calls: Mapping[str, Mapping[str, Any]]
    edges: Sequence[Edge]
    results: Sequence[Result]


def run(request: EditRequest) -> None:
    """Carry out a request and print what came of it."""
    device = choose_device(request.device)
    dtype = choose_dtype(request.dtype, device, bundled=request.bundled)
    scene, numbers = _chosen(request)
    reference = numbers[0] if request.reference is None else request.reference
    seen, made = _sizes(request, scene)
    with journal() as notes, whole_folder(request.out) as folder:
        sampler = Sampler(request, request.max_batch, device, request.out, folder, notes)
        quiet_libraries()
        with notes.stage("load"):
            coarse = moving.moved(seen, request.move or (0, 0, 0), request.turn or 0.0) if request.spatial else None
            if coarse is not None and not coarse.moved.any():
                print("couple: the moved object is out of sight in all views; move it less.", file=sys.stderr)
            shown = _editor_arguments(request, seen, coarse)
            editor, model = _pipelines(request, dtype, loading_device(device, request))
            _check_size(request, made.cameras, views.size_multiple(model))
        cameras = (seen.cameras, made.cameras)
        sampled = _sample(request, sampler, editor, shown, model, cameras, numbers.index(reference))

        ways = {"input": Way(made.pictures(), made.cameras)}
        if coarse is not None:
            ways["coarse"] = Way(to_pictures(coarse.over(1.0)), seen.cameras)
        ways["per-image"] = Way(sampled.per_image, seen.cameras)
        ways["image-to-multi-view"] = Way(sampled.image_to_multi_view, made.cameras)
        ways["coupled"] = Way(sampled.coupled, made.cameras)
        with notes.stage("measure"):
            # Depths say nothing about an object that was moved.
            known = scene.depths and all(scene.depths) and not request.spatial
            errors = _reprojection_errors(scene, ways) if known else {}
        with notes.stage("write"):
            _write(folder, scene, ways, errors)
        chosen = {"size": _size(made.cameras), "views": numbers, "reference": reference}
        record = provenance.written(
            "edit",
            asked(request),
            models=_models(request, {"editor": editor, "multiview": model}, sampled),
            edges=sampled.edges,
            sampled=sampled.results,
            max_batch=request.max_batch,
            notes=notes,
            inputs=_inputs(request, scene),
            results={**chosen, "reprojection_error": errors},
        )
        finish(folder, record)
    sampler.forget()
    for name, error in errors.items():
        print(f"{name:>19}: {_spelled(error)}")
    print(request.out / "sheet.png")


def _sample(
    request: EditRequest,
    sampler: Sampler,
    editor: Any,
    shown: Mapping[str, Any],
    model: Any,
    cameras: tuple[Cameras, Cameras],
    reference: int,
) -> Sampled:
    """Run the editor alone, then the multi-view model on what it made of the reference, alone and coupled with it.

    Args:
        request: what was asked.
        sampler: runs them.
        editor: the pipeline.
        shown: what it is shown of the views.
        model: the multi-view pipeline.
        cameras: of the editor's pictures, and of the multi-view model's.
        reference: which of the views is the reference.
    """
    editing = {**shown, **_defaults(request, "editor")}
    per_image = couple.Trajectory(editor, name="per image", generator=_noise(request.seed), **editing)
    first = sampler([per_image])
    edits = first[per_image].images

    name, prompt = request.multiview, request.multiview_prompt
    posed = views.arguments(name, model, edits[reference], cameras[1], reference, prompt=prompt)
    posed |= _defaults(request, "multiview")
    alone, kept = (
        couple.Trajectory(model, name=way, generator=_noise(request.seed + 1), **posed)
        for way in ("image to multi-view", "multi-view")
    )
    beside = couple.Trajectory(editor, name="editor", generator=_noise(request.seed), **editing)
    rows = views.rows(name, len(cameras[1]), reference)
    sizes = {"editor_size": _size(cameras[0]), "size": _size(cameras[1])}
    edges = views.joined(kept, beside, rows, weight=weight_law(request), **sizes)
    result = sampler([alone, kept, beside], edges)

    plain, coupled = ([result[node].images[row] for row in rows] for node in (alone, kept))
    return Sampled(edits, plain, coupled, {"editor": editing, "multiview": posed}, edges, [first, result])


def _check_size(request: EditRequest, cameras: Cameras, multiple: int) -> None:
    height, width = _size(cameras)
    if height % multiple or width % multiple:
        fitting = "x".join(str(max(round(side / multiple), 1) * multiple) for side in (width, height))
        raise ValueError(
            f"--size {width}x{height}: width and height for {request.multiview} are multiples of {multiple}; try "
            f"--size {fitting}."
        )


def _chosen(request: EditRequest) -> tuple[Scene, tuple[int, ...]]:
    """The views to edit, as they are on disk, and their numbers in the scene."""
    scene = scenes.load(request.scene or bundled.scene())
    if request.bundled and request.scene is not None:
        print(
            "couple: the bundled models know scenes like the bundled one only; for others add --multiview seva.",
            file=sys.stderr,
        )
    numbers = request.views
    if numbers is None:
        most = bundled.VIEWS if request.bundled else views.FAMILIES[request.multiview].views
        count, first = min(len(scene), most), request.reference or 0
        # Spread over the whole scene, so that the chosen ones see all of it, the reference among them.
        numbers = tuple(sorted((first + i * len(scene) // count) % len(scene) for i in range(count)))
    for number in (*numbers, request.reference or 0):
        if number >= len(scene):
            raise ValueError(f"view {number} is not in the scene, which has views 0 to {len(scene) - 1}.")
    if len(numbers) < 2:
        raise ValueError("the scene has one view; an edit of several views takes two or more.")
    if request.bundled:
        _note_foreign_prompt(request)
    return scene[list(numbers)], numbers


def _note_foreign_prompt(request: EditRequest) -> None:
    instructed = request.editor == "instruct"
    known = bundled.INSTRUCTIONS if instructed else [f"a {style} scene" for style in blocks.STYLES]
    if request.prompt.strip().lower() not in known:
        print(
            f"couple: the bundled editor may not know {request.prompt!r}; it was taught "
            f"{', '.join(map(repr, known))}. For other prompts add --multiview seva.",
            file=sys.stderr,
        )


def _sizes(request: EditRequest, scene: Scene) -> tuple[Scene, Scene]:
    """The scene in the size that the editor sees, and in the size that the multi-view model makes."""
    if request.size is not None:
        width, height = request.size
        fitted = scene.fitted(height, width)
        return fitted, fitted
    side = blocks.SIZE if request.bundled else views.FAMILIES[request.multiview].side
    own = side if request.bundled else editor_calls.SIDES.get(request.editor, side)
    return scene.fitted(own, own), scene.fitted(side, side)


def _editor_arguments(request: EditRequest, scene: Scene, coarse: CoarseEdit | None) -> dict[str, Any]:
    given: dict[str, Any] = {"bundled": request.bundled}
    if request.background is not None:
        given["background"] = read_picture(Path(request.background).expanduser()).convert("RGB")
    if request.environment is not None:
        given["environment_map"] = editor_calls.read_light(Path(request.environment).expanduser())
    if request.strength is not None:
        given["strength"] = request.strength
    return editor_calls.arguments(
        request.editor, scene, prompt=request.prompt, condition=request.condition or "canny", coarse=coarse, **given
    )


def _pipelines(request: EditRequest, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    """The editor and the multi-view model."""
    own: dict[str, Any] = {"instruct": bundled.instruct, "controlnet": bundled.restyle}
    place = {"dtype": dtype, "device": device}
    editor = editors.load(
        request.editor,
        own[request.editor]() if request.bundled else request.editor_model,
        base=request.base or "sd21",
        condition=request.condition or "canny",
        background=request.background is not None,
        **place,
    )
    model = views.load(request.multiview, bundled.views() if request.bundled else request.multiview_model, **place)
    return editor, model


def _defaults(request: EditRequest, whose: str) -> dict[str, Any]:
    """Steps and guidance of a call."""
    settings: dict[str, Any] = {"num_inference_steps": STEPS}
    if request.bundled:
        own = {"instruct": bundled.INSTRUCT_DEFAULTS, "controlnet": bundled.RESTYLE_DEFAULTS}
        settings = dict(own[request.editor] if whose == "editor" else bundled.VIEWS_DEFAULTS)
    if request.steps is not None:
        settings["num_inference_steps"] = request.steps
    guidance = request.guidance if whose == "editor" else request.multiview_guidance
    return settings if guidance is None else {**settings, "guidance_scale": guidance}


def _noise(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _size(cameras: Cameras) -> tuple[int, int]:
    return cameras.height, cameras.width


def _reprojection_errors(scene: Scene, ways: Mapping[str, Way]) -> dict[str, float | None]:
    """How much the colours of one place differ between neighbouring views, by way, in 0 to 255."""
    pairs = [pair for k in range(len(scene) - 1) for pair in ((k, k + 1), (k + 1, k))]
    errors: dict[str, float | None] = {}
    for name, (pictures, cameras) in ways.items():
        fitted = scene.fitted(cameras.height, cameras.width)
        try:
            error = reprojection_error(to_tensor(pictures), fitted.distances(), fitted.cameras, pairs=pairs)
        except ValueError:
            # No two views see one place, or depths are missing in this size.
            errors[name] = None
        else:
            errors[name] = round(float(error), 3)
    return errors


def _write(folder: Path, scene: Scene, ways: Mapping[str, Way], errors: Mapping[str, float | None]) -> None:
    """A scene for each way, the sheet, and the video that goes through the views and back."""
    stems = [path.stem for path in scene.paths]
    names = stems if len(set(stems)) == len(stems) else [f"{i:04d}" for i in range(len(stems))]
    for name, (pictures, cameras) in ways.items():
        scenes.save(folder / name, cameras, pictures, names=names)
    rows = [
        Row(name, _spelled(errors[name]) if name in errors else "", [enlarged(each, _SHEET) for each in way.pictures])
        for name, way in ways.items()
    ]
    contact_sheet(rows, names, height=_SHEET).save(folder / "sheet.png")
    frames = side_by_side({"": [way.pictures for way in ways.values()]}, list(ways))
    write_mp4(folder / "orbit.mp4", [*frames, *frames[-2:0:-1]], _FPS)


def _spelled(error: float | None) -> str:
    return "nothing in common" if error is None else f"views differ by {error:.1f} of 255"


def _models(request: EditRequest, pipelines: Mapping[str, Any], sampled: Sampled) -> dict[str, Model]:
    models = {
        "editor": (request.editor, request.editor_model),
        "multiview": (request.multiview, request.multiview_model),
    }
    return {
        role: provenance.model(
            f"{name} (bundled)" if request.bundled else given or name,
            pipelines[role],
            call=sampled.calls[role],
            seeds=[request.seed + k],
        )
        for k, (role, (name, given)) in enumerate(models.items())
    }


def _inputs(request: EditRequest, scene: Scene) -> list[Path]:
    """The files that decide about the result beside the models."""
    given = [Path(path).expanduser() for path in (request.background, request.environment) if path is not None]
    maps = scene.masks if request.spatial else ()
    return [*scene.paths, *(path for path in (*scene.depths, *maps) if path is not None), *given]
