"""Stock pipelines whose guidance has a momentum in the frame of their call, where no checkpoint can see it.

A guider that is a part of its pipeline keeps its momentum where it is seen, and a checkpoint holds it. A variable of a
running call is another matter: that a pipeline of somebody's own has one shows only when its run goes on (`replay`).
Those of diffusers are known by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from couple.trajectory import Trajectory

#: By class: whether a call with these arguments uses its momentum, and the argument without which it does not.
_MOMENTA: Mapping[str, tuple[Callable[[Any, Mapping[str, Any]], bool], str]] = {
    "AceStepPipeline": (
        lambda pipeline, call: call["guidance_scale"] > 1 and not pipeline.is_turbo,
        "guidance_scale=1.0",
    ),
    "SemanticStableDiffusionPipeline": (
        lambda _, call: (
            call["edit_momentum_scale"] != 0
            and bool(call["editing_prompt"] or call["editing_prompt_embeddings"] is not None)
        ),
        "edit_momentum_scale=0.0",
    ),
    "StableDiffusionPipelineSafe": (
        lambda _, call: (
            call["sld_momentum_scale"] != 0 and call["sld_guidance_scale"] > 1 and call["guidance_scale"] > 1
        ),
        "sld_momentum_scale=0.0",
    ),
}


def check(trajectory: Trajectory) -> None:
    """Refuse a call that uses such a momentum.

    Raises:
        ValueError: it does.
    """
    for cls in type(trajectory.pipeline).__mro__:
        if cls.__name__ not in _MOMENTA:
            continue
        used, fix = _MOMENTA[cls.__name__]
        taken = inspect.signature(cls.__call__).parameters  # pyright: ignore[reportFunctionMemberAccess]
        defaults = {name: parameter.default for name, parameter in taken.items()}
        if used(trajectory.pipeline, {**defaults, **trajectory.call_kwargs}):
            raise ValueError(
                f"trajectory {trajectory.name!r}: the guidance of {cls.__name__} has a momentum, which lives inside "
                f"its call, where no checkpoint sees it. Give the trajectory {fix}, or sample without checkpoint=."
            )
