"""`couple video`: one video for each prompt, with and without coupling, from the same seeds.

Here is the command line; `couple.cli.filming` does the work.
"""

from dataclasses import dataclass
from typing import Annotated

import typer

from couple.bundled import TEXT_TO_VIDEO_UNTIL
from couple.cli import options
from couple.cli.folder import unused_folder

# The bundled model is short of frames; 16 is what Wan films at.
_BUNDLED_FPS, _FPS = 8.0, 16.0


@dataclass(frozen=True, kw_only=True)
class VideoRequest(options.Request):
    """A checked command line.

    Attributes:
        frames: Length of the videos, at least 1; None stands for the model's own default.
        fps: Frames shown in a second, more than 0 and at most 100.
    """

    frames: int | None
    fps: float


@options.executed
def video(
    prompts: options.Prompts = None,
    model: options.Model = None,
    weight: options.Weight = 1.0,
    law: options.LawName = "relax",
    until: options.Until = TEXT_TO_VIDEO_UNTIL,
    graph: options.Graph = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    size: options.Size = None,
    frames: Annotated[int | None, typer.Option(help="Length of the videos.", show_default="the model's")] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames shown in a second.", show_default="8 when bundled, else 16")
    ] = None,
    seed: options.Seed = 0,
    max_batch: options.MaxBatch = None,
    *,
    execution: options.Execution,
    dtype: options.Dtype = None,
    device: options.Device = None,
    out: options.Out = None,
) -> None:
    """Film one video for each prompt, coupled and uncoupled, and show them side by side."""
    prompts = prompts or []
    request = VideoRequest(
        prompts=tuple(prompts),
        model=model,
        weight=weight,
        law=law,
        until=until,
        graph=graph or options.default_graph(prompts),
        steps=steps,
        guidance=guidance,
        size=options.parse_size(size),
        frames=frames,
        fps=fps if fps is not None else _BUNDLED_FPS if model is None else _FPS,
        seed=seed,
        max_batch=max_batch,
        **vars(execution),
        dtype=dtype,
        device=device,
        out=out or unused_folder(prompts),
    )
    check_video(request)
    from couple.cli.filming import film

    film(request)


def check_video(request: VideoRequest) -> None:
    """Raise `Misuse` unless the request is what `VideoRequest` says of it."""
    options.check_request(request, 'couple video "a pink star circles" "a blue square circles"')
    options.check_least("frames", request.frames, 1)
    if not 0 < request.fps <= 100:
        raise options.Misuse(f"--fps {request.fps:g} must be more than 0 and at most 100; try --fps {_FPS:g}.")
