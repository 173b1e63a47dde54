"""What the commands are called with: the options they share, and what can be said about them before torch is imported.

A command spells its own defaults; the meaning of an option, its help and its check are here, once.
"""

import functools
import inspect
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from couple import sizes
from couple.cli import folder

LAWS = ("constant", "rate", "relax", "implicit")
GRAPHS = ("pair", "chain", "complete", "star")
DTYPES = ("float32", "bfloat16", "float16")
MEMORY = ("resident", "stream", "auto")
PARALLEL = ("trajectories",)

Prompts = Annotated[list[str] | None, typer.Argument(metavar="PROMPT PROMPT", show_default=False)]
Model = Annotated[str | None, typer.Option(help="Folder or hub id of a pipeline.", show_default="the bundled one")]
Weight = Annotated[float, typer.Option(help="Strength of the coupling; 0 is none.")]
LawName = Annotated[str, typer.Option(metavar="|".join(LAWS), help="How the strength is spent over the steps.")]
Until = Annotated[
    float, typer.Option(help="Couple only for this share of the run, while places are decided; 1 is all of it.")
]
Graph = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(GRAPHS),
        help="Who pulls on whom; a star's centre is the first prompt. Degrees are divided out, so that one weight "
        "suits all graphs.",
        show_default="pair; complete for more than two prompts",
    ),
]
Steps = Annotated[int | None, typer.Option(help="Denoising steps.", show_default="the model's")]
Guidance = Annotated[float | None, typer.Option(help="Guidance scale.", show_default="the model's")]
Size = Annotated[str | None, typer.Option(metavar="N|WxH", help="Pixels.", show_default="the model's")]
Seed = Annotated[int, typer.Option(help="Prompt number i, from 0, starts from the noise of seed + i.")]
MaxBatch = Annotated[int | None, typer.Option(help="Most samples in one forward pass.", show_default="all")]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(MEMORY),
        help="Where weights are: each model on the device while it runs, block by block, or as it fits.",
        show_default="all on the device",
    ),
]
Budget = Annotated[
    str | None, typer.Option(metavar="12GB", help="What --memory may take on the device.", show_default="what is free")
]
Fp8 = Annotated[
    bool, typer.Option("--fp8", help="Store denoisers in 8 bits beside --memory, half of bfloat16; changes results.")
]
Attention = Annotated[
    str | None, typer.Option(help="Attention backend, as diffusers spells it.", show_default="the model's")
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the repeated blocks of the models first.")]
Parallel = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(PARALLEL),
        help="Divide the trajectories among the processes of torchrun --nproc-per-node N -m couple ...",
        show_default=False,
    ),
]
Preview = Annotated[
    int | None, typer.Option(metavar="N", help="Show what is predicted every N steps; keep a filmstrip and a trace.")
]
CheckpointEvery = Annotated[
    int | None,
    typer.Option(metavar="N", help="Keep a checkpoint every N steps.", show_default="only when interrupted"),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where the same command line was stopped.")]
_EXECUTION = {
    "memory": Memory,
    "budget": Budget,
    "fp8": Fp8,
    "attention": Attention,
    "compile": Compile,
    "parallel": Parallel,
    "preview": Preview,
    "checkpoint_every": CheckpointEvery,
    "resume": Resume,
}
Dtype = Annotated[
    str | None,
    typer.Option(metavar="|".join(DTYPES), show_default="float32 on a CPU or when bundled, else bfloat16"),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, mps.", show_default="a GPU if there is one")]
Out = Annotated[Path | None, typer.Option(help="Folder for the results.", show_default="a new one in out/")]


class Misuse(TyperException):
    """The command line is at fault, and this is what to write instead."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is carried out. What is drawn does not change by it, but for rounding.

    Attributes:
        memory: One of `MEMORY`; None for all weights on the device.
        budget: What they may take there, as `couple.Placement` reads it.
        fp8: Whether denoisers are stored as float8.
        attention: A backend as diffusers spells it.
        compile: Whether repeated blocks are compiled.
        parallel: One of `PARALLEL`, under torchrun; None for one process.
        preview: Steps between previews; None for no previews.
        checkpoint_every: Steps between checkpoints; None for one when the run is interrupted.
        resume: Whether to go on from a checkpoint.
    """

    memory: str | None = None
    budget: str | None = None
    fp8: bool = False
    attention: str | None = None
    compile: bool = False
    parallel: str | None = None
    preview: int | None = None
    checkpoint_every: int | None = None
    resume: bool = False


@dataclass(frozen=True, kw_only=True)
class Options(Execution):
    """What every run is asked. None stands for the model's own default.

    Attributes:
        weight: Not negative, finite.
        law: One of `LAWS`.
        until: The share of the run after which the pull lets go, in (0, 1].
        steps: At least 1.
        guidance: Finite.
        seed: Not negative.
        max_batch: At least 1; None merges all forwards.
        dtype: One of `DTYPES`.
        device: As torch spells it.
        out: The folder to leave behind.
    """

    weight: float
    law: str
    until: float
    steps: int | None
    guidance: float | None
    seed: int
    max_batch: int | None
    dtype: str | None
    device: str | None
    out: Path


@dataclass(frozen=True, kw_only=True)
class Request(Options):
    """What a run of one model under several prompts is asked; prompt number i starts from the noise of seed + i.

    Attributes:
        prompts: At least two.
        model: Folder or hub id, None for the bundled model.
        graph: One of `GRAPHS`.
        size: (width, height) in pixels.
    """

    prompts: tuple[str, ...]
    model: str | None
    graph: str
    size: tuple[int, int] | None


def executed(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `Execution`, each under its own name, in the place of its argument `execution`."""
    shared = {field.name: (_EXECUTION[field.name], field.default) for field in fields(Execution)}

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        execution = Execution(**{name: given.pop(name) for name in shared})
        if execution.resume and given["out"] is not None and folder.finished(given["out"]):
            raise Misuse(f"--out {given['out']} is finished: there is nothing to go on with; leave out --resume.")
        if execution.parallel is None:
            return command(execution=execution, **given)
        check_execution(execution)
        from couple.cli import processes

        with processes.joined(f"couple {command.__name__} ... --parallel {execution.parallel}") as elsewhere:
            return command(execution=execution, **(given if elsewhere is None else {**given, "out": elsewhere}))

    own = inspect.signature(command).parameters.values()
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
        for one in own
        for name, (annotation, default) in (
            shared.items() if one.name == "execution" else [(one.name, (one.annotation, one.default))]
        )
    ]
    # typer reads both.
    run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def check_options(options: Options) -> None:
    """Raise `Misuse` unless every option is what `Options` says of it."""
    check_choice("law", options.law, LAWS)
    check_choice("dtype", options.dtype, DTYPES)
    if not (math.isfinite(options.weight) and options.weight >= 0):
        raise Misuse(f"--weight {options.weight:g} must be a finite number, 0 or more; try --weight 1.")
    if not 0 < options.until <= 1:
        raise Misuse(f"--until {options.until:g} must be more than 0 and at most 1; try --until 0.2.")
    if options.guidance is not None and not math.isfinite(options.guidance):
        raise Misuse(f"--guidance {options.guidance:g} must be a finite number; try --guidance 3.")
    check_least("steps", options.steps, 1)
    check_least("max-batch", options.max_batch, 1)
    check_least("seed", options.seed, 0)
    check_execution(options)


def check_execution(execution: Execution) -> None:
    """Raise `Misuse` unless the execution is what `Execution` says of it."""
    check_choice("memory", execution.memory, MEMORY)
    check_choice("parallel", execution.parallel, PARALLEL)
    if execution.budget is not None and execution.memory is None:
        raise Misuse(f"--budget {execution.budget} goes with --memory; try --memory auto --budget {execution.budget}.")
    if execution.budget is not None and sizes.nbytes(execution.budget) is None:
        raise Misuse(f"--budget {execution.budget} is no size; write it as 12GB or 8GiB.")
    if execution.fp8 and execution.memory is None:
        raise Misuse("--fp8 goes with --memory; try --memory auto --fp8.")
    check_least("preview", execution.preview, 1)
    check_least("checkpoint-every", execution.checkpoint_every, 1)
    started = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if execution.parallel is None and started > 1:
        raise Misuse(f"torchrun started {started} processes, which would all do the same; add --parallel trajectories.")
    alone = {
        "--preview": execution.preview,
        "--checkpoint-every": execution.checkpoint_every,
        "--resume": execution.resume,
    }
    for option, given in alone.items():
        if execution.parallel is not None and given:
            raise Misuse(f"{option} watches or keeps all trajectories in one process; leave out it or --parallel.")


def check_request(request: Request, example: str) -> None:
    """Raise `Misuse` unless the request is what `Request` says of it; `example` is a command line that works."""
    count = len(request.prompts)
    if count < 2:
        raise Misuse(f"coupling takes at least two prompts, got {count}; try: {example}.")
    if request.graph == "pair" and count != 2:
        raise Misuse(f"--graph pair takes two prompts, got {count}; try --graph complete, chain or star.")
    check_choice("graph", request.graph, GRAPHS)
    check_options(request)
    if request.seed + count > 2**63:
        raise Misuse(f"--seed {request.seed} is too large; seeds end at 2**63.")


def check_choice(option: str, value: str | None, allowed: Sequence[str]) -> None:
    """Raise `Misuse` unless the value of --option is allowed or not given."""
    if value is not None and value not in allowed:
        raise Misuse(f"--{option} {value} is unknown; choose from {', '.join(allowed)}.")


def check_least(option: str, value: int | None, least: int) -> None:
    """Raise `Misuse` unless the value of --option is at least `least` or not given."""
    if value is not None and value < least:
        raise Misuse(f"--{option} {value} must be {least} or more; try --{option} {max(least, 1)}.")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(width, height) of "64" or "96x64", None of None; raises `Misuse` for anything else."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:[xX](\d+))?", text)
    if match is None:
        raise Misuse(f"--size {text} is no size; write pixels as 64, or width x height as 96x64.")
    width, height = int(match[1]), int(match[2] or match[1])
    if not (width and height):
        raise Misuse(f"--size {text} is empty; width and height must be 1 or more, e.g. --size 64.")
    return width, height


def default_graph(prompts: Sequence[str]) -> str:
    """The graph of a command line that names none."""
    return "complete" if len(prompts) > 2 else "pair"
