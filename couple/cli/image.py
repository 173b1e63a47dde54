"""`couple image`: one picture for each prompt, with and without coupling, from the same seeds.

Here are the options and what can be said about them before torch is imported; `couple.cli.drawing` does the
work.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from couple.cli.folder import unused_folder

LAWS = ("constant", "rate", "relax", "implicit")
GRAPHS = ("pair", "chain", "complete", "star")
DTYPES = ("float32", "bfloat16", "float16")


class Misuse(TyperException):
    """The command line is at fault, and this is what to write instead."""

    exit_code = 2


@dataclass(frozen=True)
class Request:
    """A checked command line. None stands for the model's own default.

    Attributes:
        prompts: At least two.
        model: Folder or hub id, None for the bundled model.
        weight: Not negative, finite.
        law: One of `LAWS`.
        until: The share of the run after which the pull lets go, in (0, 1].
        graph: One of `GRAPHS`.
        steps: At least 1.
        guidance: Finite.
        size: (width, height) in pixels.
        seed: Prompt number i starts from the noise of seed + i.
        max_batch: At least 1; None merges all forwards.
        dtype: One of `DTYPES`.
        device: As torch spells it.
        out: The folder to leave behind.
    """

    prompts: tuple[str, ...]
    model: str | None
    weight: float
    law: str
    until: float
    graph: str
    steps: int | None
    guidance: float | None
    size: tuple[int, int] | None
    seed: int
    max_batch: int | None
    dtype: str | None
    device: str | None
    out: Path


def image(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT PROMPT", show_default=False)] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder or hub id of a pipeline.", show_default="the bundled one")
    ] = None,
    weight: Annotated[float, typer.Option(help="Strength of the coupling; 0 is none.")] = 1.0,
    law: Annotated[
        str, typer.Option(metavar="|".join(LAWS), help="How the strength is spent over the steps.")
    ] = "relax",
    until: Annotated[
        float, typer.Option(help="Couple only for this share of the run, while places are decided; 1 is all of it.")
    ] = 0.2,
    graph: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(GRAPHS),
            help="Who pulls on whom; a star's centre is the first prompt. Degrees are divided out, so that "
            "one weight suits all graphs.",
            show_default="pair; complete for more than two prompts",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.", show_default="the model's")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.", show_default="the model's")] = None,
    size: Annotated[str | None, typer.Option(metavar="N|WxH", help="Pixels.", show_default="the model's")] = None,
    seed: Annotated[int, typer.Option(help="Prompt number i, from 0, starts from the noise of seed + i.")] = 0,
    max_batch: Annotated[
        int | None, typer.Option(help="Most pictures in one forward pass.", show_default="all")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(metavar="|".join(DTYPES), show_default="float32 on a CPU or when bundled, else bfloat16"),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps.", show_default="a GPU if there is one")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results.", show_default="a new one in out/")] = None,
) -> None:
    """Draw one picture for each prompt, coupled and uncoupled, and a contact sheet of them all."""
    request = _checked(
        prompts=tuple(prompts or ()),
        model=model,
        weight=weight,
        law=law,
        until=until,
        graph=graph or ("complete" if prompts and len(prompts) > 2 else "pair"),
        steps=steps,
        guidance=guidance,
        size=_size(size),
        seed=seed,
        max_batch=max_batch,
        dtype=dtype,
        device=device,
        out=out or unused_folder(prompts or ()),
    )
    from couple.cli.drawing import draw

    draw(request)


def _checked(**values: Any) -> Request:
    request = Request(**values)
    count = len(request.prompts)
    if count < 2:
        raise Misuse(
            f'coupling takes at least two prompts, got {count}; try: couple image "a pink star" "a blue moon".'
        )
    if request.graph == "pair" and count != 2:
        raise Misuse(f"--graph pair takes two prompts, got {count}; try --graph complete, chain or star.")
    for name, allowed in (("law", LAWS), ("graph", GRAPHS), ("dtype", DTYPES)):
        value = getattr(request, name)
        if value is not None and value not in allowed:
            raise Misuse(f"--{name} {value} is unknown; choose from {', '.join(allowed)}.")
    if not (math.isfinite(request.weight) and request.weight >= 0):
        raise Misuse(f"--weight {request.weight:g} must be a finite number, 0 or more; try --weight 1.")
    if not 0 < request.until <= 1:
        raise Misuse(f"--until {request.until:g} must be more than 0 and at most 1; try --until 0.2.")
    if request.guidance is not None and not math.isfinite(request.guidance):
        raise Misuse(f"--guidance {request.guidance:g} must be a finite number; try --guidance 3.")
    for name, least in (("steps", 1), ("max_batch", 1), ("seed", 0)):
        value = getattr(request, name)
        if value is not None and value < least:
            option = name.replace("_", "-")
            raise Misuse(f"--{option} {value} must be {least} or more; try --{option} {max(least, 1)}.")
    if request.seed + count > 2**63:
        raise Misuse(f"--seed {request.seed} is too large; seeds end at 2**63.")
    return request


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:[xX](\d+))?", text)
    if match is None:
        raise Misuse(f"--size {text} is no size; write pixels as 64, or width x height as 96x64.")
    width, height = int(match[1]), int(match[2] or match[1])
    if not (width and height):
        raise Misuse(f"--size {text} is empty; width and height must be 1 or more, e.g. --size 64.")
    return width, height
