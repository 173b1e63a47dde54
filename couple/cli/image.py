"""`couple image`: one picture for each prompt, with and without coupling, from the same seeds.

Here is the command line; `couple.cli.drawing` does the work.
"""

from couple.bundled import TEXT_TO_IMAGE_UNTIL
from couple.cli import options
from couple.cli.folder import unused_folder


@options.executed
def image(
    prompts: options.Prompts = None,
    model: options.Model = None,
    weight: options.Weight = 1.0,
    law: options.LawName = "relax",
    until: options.Until = TEXT_TO_IMAGE_UNTIL,
    graph: options.Graph = None,
    steps: options.Steps = None,
    guidance: options.Guidance = None,
    size: options.Size = None,
    seed: options.Seed = 0,
    max_batch: options.MaxBatch = None,
    *,
    execution: options.Execution,
    dtype: options.Dtype = None,
    device: options.Device = None,
    out: options.Out = None,
) -> None:
    """Draw one picture for each prompt, coupled and uncoupled, and a contact sheet of them all."""
    prompts = prompts or []
    request = options.Request(
        prompts=tuple(prompts),
        model=model,
        weight=weight,
        law=law,
        until=until,
        graph=graph or options.default_graph(prompts),
        steps=steps,
        guidance=guidance,
        size=options.parse_size(size),
        seed=seed,
        max_batch=max_batch,
        **vars(execution),
        dtype=dtype,
        device=device,
        out=out or unused_folder(prompts),
    )
    options.check_request(request, 'couple image "a pink star" "a blue moon"')
    from couple.cli.drawing import draw

    draw(request)
