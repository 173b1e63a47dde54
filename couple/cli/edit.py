"""`couple edit`: a scene edited in all its views, by an editor of pictures coupled with a multi-view model.

Here are the options and what can be said about them before torch is imported; `couple.cli.editing` does the work.
"""

import math
import re
from dataclasses import dataclass
from typing import Annotated

import typer

from couple.bundled import INSTRUCTIONS
from couple.cli import options
from couple.cli.folder import unused_folder
from couple.cli.options import Misuse, check_choice

EDITORS = ("controlnet", "instruct", "img2img", "ic-light", "neural-gaffer", "magic-fixup")
MULTIVIEW = ("seva", "mvdream", "mv-adapter")
CONDITIONS = ("canny", "depth")
BASES = ("sd21", "sd15")

#: What the bundled editors are told if nothing else is said; and of a moved object, `_BLEND`.
_RELIGHT, _BLEND = INSTRUCTIONS
_BUNDLED_PROMPTS = {"instruct": _RELIGHT, "controlnet": "a winter scene"}
_PROMPTED = ("controlnet", "instruct", "img2img", "ic-light")
_MOVING = ("instruct", "img2img", "magic-fixup")
#: Which editors take an option that not all of them take.
_TAKERS = {
    "condition": ("controlnet",),
    "base": ("controlnet", "img2img"),
    "strength": ("img2img",),
    "background": ("ic-light",),
    "environment": ("neural-gaffer",),
    "move": _MOVING,
    "turn": _MOVING,
}


@dataclass(frozen=True, kw_only=True)
class EditRequest(options.Options):
    """A checked command line. None stands for a default that depends on scene or models.

    Attributes:
        scene: Folder or JSON file, None for the bundled scene.
        editor: One of `EDITORS`.
        editor_model: Folder or hub id, None for the bundled or the published model.
        multiview: One of `MULTIVIEW`.
        multiview_model: As `editor_model`.
        bundled: Whether the bundled models run.
        prompt: What the editor is told; empty for one that takes no prompt.
        multiview_prompt: What the views show, for a multi-view model that takes a prompt; empty if nothing was said.
        views: Numbers of the scene's pictures, each once.
        reference: The picture whose edit the multi-view model is given; one of `views`.
        condition: Of ControlNet, one of `CONDITIONS`.
        base: Of ControlNet and img2img, one of `BASES`.
        strength: Of img2img, in (0, 1].
        background: Of IC-Light, a picture.
        environment: Of Neural Gaffer, a file.
        move: Where the object goes, in units of the scene.
        turn: Degrees about the vertical.
        size: (width, height) in pixels.
        multiview_guidance: Finite.
    """

    scene: str | None
    editor: str
    editor_model: str | None
    multiview: str
    multiview_model: str | None
    bundled: bool
    prompt: str
    multiview_prompt: str
    views: tuple[int, ...] | None
    reference: int | None
    condition: str | None
    base: str | None
    strength: float | None
    background: str | None
    environment: str | None
    move: tuple[float, ...] | None
    turn: float | None
    size: tuple[int, int] | None
    multiview_guidance: float | None

    @property
    def spatial(self) -> bool:
        """Whether an object is moved."""
        return self.move is not None or self.turn is not None


@options.executed
def edit(
    scene: Annotated[
        str | None, typer.Argument(metavar="SCENE", help="Folder of posed pictures.", show_default="the bundled one")
    ] = None,
    editor: Annotated[str, typer.Option(metavar="|".join(EDITORS), help="What edits single pictures.")] = "instruct",
    multiview: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(MULTIVIEW),
            help="What makes all views at once.",
            show_default="the bundled models for instruct and controlnet, else seva",
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="What the editor is told.")] = None,
    multiview_prompt: Annotated[
        str | None, typer.Option(help="What the edited views show, for mvdream and mv-adapter.")
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(metavar="0-7|0,3,6", help="Which pictures.", show_default="as many as the model takes"),
    ] = None,
    reference: Annotated[
        int | None, typer.Option(help="The picture whose edit the multi-view model sees.", show_default="the first")
    ] = None,
    move: Annotated[
        str | None, typer.Option(metavar="X,Y,Z", help="Move the masked object so far, in units of the scene.")
    ] = None,
    turn: Annotated[
        float | None, typer.Option(metavar="DEGREES", help="Turn the masked object about the vertical (z).")
    ] = None,
    condition: Annotated[
        str | None, typer.Option(metavar="|".join(CONDITIONS), help="What ControlNet sees.", show_default="canny")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="|".join(BASES), help="Under ControlNet and img2img.", show_default="sd21"),
    ] = None,
    strength: Annotated[float | None, typer.Option(help="How far img2img goes, up to 1.", show_default="0.8")] = None,
    background: Annotated[str | None, typer.Option(metavar="PICTURE", help="What IC-Light fits to.")] = None,
    environment: Annotated[
        str | None, typer.Option(metavar="FILE", help="Neural Gaffer's light: .hdr, .npy or .png, z up.")
    ] = None,
    editor_model: Annotated[
        str | None, typer.Option(help="Folder or hub id in place of the editor's published one.")
    ] = None,
    multiview_model: Annotated[
        str | None, typer.Option(help="Folder or hub id in place of the multi-view model's published one.")
    ] = None,
    weight: options.Weight = 1.0,
    law: options.LawName = "relax",
    until: options.Until = 1.0,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps.", show_default="50; the bundled models have their own")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale of the editor.", show_default="the model's")
    ] = None,
    multiview_guidance: Annotated[
        float | None, typer.Option(help="Guidance scale of the multi-view model.", show_default="the model's")
    ] = None,
    size: options.Size = None,
    seed: Annotated[int, typer.Option(help="Of the editor; the multi-view model has the next.")] = 0,
    max_batch: options.MaxBatch = None,
    *,
    execution: options.Execution,
    dtype: options.Dtype = None,
    device: options.Device = None,
    out: options.Out = None,
) -> None:
    """Edit all views of a scene: each alone, from one edited view, and coupled; with a sheet and a video of them."""
    named = multiview or editor_model or multiview_model or base or condition == "depth"
    bundled = not named and editor in _BUNDLED_PROMPTS
    if prompt is None and bundled:
        prompt = _BUNDLED_PROMPTS[editor] if move is None and turn is None else _BLEND
    request = EditRequest(
        scene=scene,
        editor=editor,
        editor_model=editor_model,
        multiview=multiview or "seva",
        multiview_model=multiview_model,
        bundled=bundled,
        prompt=prompt or "",
        multiview_prompt=multiview_prompt or "",
        views=_numbers(views),
        reference=reference,
        condition=condition,
        base=base,
        strength=strength,
        background=background,
        environment=environment,
        move=_shift(move),
        turn=turn,
        weight=weight,
        law=law,
        until=until,
        steps=steps,
        guidance=guidance,
        multiview_guidance=multiview_guidance,
        size=options.parse_size(size),
        seed=seed,
        max_batch=max_batch,
        **vars(execution),
        dtype=dtype,
        device=device,
        out=out or unused_folder([editor, prompt or ""]),
    )
    check(request)
    from couple.cli.editing import run

    run(request)


def check(request: EditRequest) -> None:
    """Raise `Misuse` unless the request is what `EditRequest` says of it."""
    options.check_options(request)
    check_choice("editor", request.editor, EDITORS)
    check_choice("multiview", request.multiview, MULTIVIEW)
    check_choice("condition", request.condition, CONDITIONS)
    check_choice("base", request.base, BASES)
    for option, takers in _TAKERS.items():
        if getattr(request, option) is not None and request.editor not in takers:
            raise Misuse(f"--{option} goes with --editor {' or '.join(takers)}, not with {request.editor}.")
    if request.multiview == "seva" and request.multiview_prompt:
        raise Misuse("--multiview-prompt goes with --multiview mvdream or mv-adapter; seva sees the edited view alone.")
    if request.editor in _PROMPTED and not request.prompt:
        raise Misuse(f'{request.editor} is told what to make; add e.g. --prompt "a winter scene".')
    if request.multiview == "mvdream" and not request.multiview_prompt:
        raise Misuse('mvdream draws from words alone; say what the views show, e.g. --multiview-prompt "a snowman".')
    if request.editor == "magic-fixup" and not request.spatial:
        raise Misuse("magic-fixup makes moved objects natural; say where to, e.g. --move 0.2,0,0 or --turn 30.")
    if request.editor == "neural-gaffer" and request.environment is None:
        raise Misuse("neural-gaffer takes its light from a map; add --environment light.hdr.")
    if request.strength is not None and not 0 < request.strength <= 1:
        raise Misuse(f"--strength {request.strength:g} must be more than 0 and at most 1; try --strength 0.8.")
    for option in ("turn", "multiview_guidance"):
        value = getattr(request, option)
        if value is not None and not math.isfinite(value):
            raise Misuse(f"--{option.replace('_', '-')} {value:g} must be a finite number.")
    options.check_least("reference", request.reference, 0)
    if request.views is not None and request.reference is not None and request.reference not in request.views:
        raise Misuse(f"--reference {request.reference} is not among --views; add it there.")


def _numbers(text: str | None) -> tuple[int, ...] | None:
    """The numbers that --views names, in its order."""
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:-(\d{1,6}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise Misuse(f"--views {text} are no views; write 0-7, or 0,3,6, or both as 0-3,8.")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    if len(found) < 2 or len(set(found)) < len(found):
        raise Misuse(f"--views {text} must name two views or more, each once, e.g. --views 0-3.")
    return tuple(found)


def _shift(text: str | None) -> tuple[float, ...] | None:
    """The three numbers of --move."""
    if text is None:
        return None
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise Misuse(f"--move {text} is no way to go; write three numbers, along x, y and z, as 0.2,0,0.")
    return numbers
