"""Refusing what cannot be sampled, before anything runs."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from couple import hooks, latents
from couple.graph import Edge
from couple.trajectory import Trajectory

#: Step caches of diffusers with one memory a network, whoever calls, and a clock read off the user's pipeline.
UNNAMED_CACHES = frozenset({"FasterCacheConfig", "PyramidAttentionBroadcastConfig"})


def checked(
    trajectories: Sequence[Trajectory], edges: Sequence[Edge], max_batch: int | None
) -> tuple[list[Trajectory], list[Edge]]:
    """Return the trajectories and edges as lists.

    Raises:
        TypeError, ValueError: they cannot be sampled.
    """
    if isinstance(trajectories, Trajectory):
        raise TypeError("`trajectories` must be a list: couple.sample([a, b], edges).")
    if isinstance(edges, Edge):
        raise TypeError("`edges` must be a list: couple.sample([a, b], [edge]).")
    trajectories, edges = list(trajectories), list(edges)
    if not trajectories:
        raise ValueError("there is nothing to sample: give at least one trajectory, couple.sample([a]).")
    if max_batch is not None and (isinstance(max_batch, bool) or not isinstance(max_batch, int) or max_batch < 1):
        raise ValueError(f"`max_batch` must be None or an integer of at least 1; got {max_batch!r}.")
    for trajectory in trajectories:
        if not isinstance(trajectory, Trajectory):
            raise TypeError(
                f"`trajectories` must hold Trajectory objects; got {type(trajectory).__name__}. "
                "Write couple.Trajectory(pipe, prompt=...)."
            )
        _check_call(trajectory)
    if len(set(trajectories)) < len(trajectories):
        twice = next(t for t in trajectories if trajectories.count(t) > 1)
        raise ValueError(f"trajectory {twice.name!r} is given twice; make a second Trajectory for a second sample.")
    for edge in edges:
        if not isinstance(edge, Edge):
            raise TypeError(
                f"`edges` must hold Edge objects; got {type(edge).__name__}. Write couple.pair(a, b, weight=...)."
            )
        for trajectory in edge.trajectories:
            if trajectory not in trajectories:
                raise ValueError(
                    f"trajectory {trajectory.name!r} appears in edge {edge.label} but not in the trajectories being "
                    "sampled: add it to the list, couple.sample([..., it], edges)."
                )
    _check_generators(trajectories)
    latents.check(edges)
    return trajectories, edges


def _check_call(trajectory: Trajectory) -> None:
    """Refuse a pipeline without a scheduler and arguments that its call does not take."""
    pipeline, name = trajectory.pipeline, trajectory.name
    if not hooks.main_schedulers(pipeline):
        raise ValueError(
            f"trajectory {name!r}: {type(pipeline).__name__} has no scheduler, so it cannot meet others at its steps. "
            "Give a diffusers pipeline, or a bare network as couple.DenoiserPipeline(network, scheduler)."
        )
    try:
        inspect.signature(type(pipeline).__call__).bind(pipeline, **trajectory.call_kwargs)
    except TypeError as error:
        raise TypeError(f"trajectory {name!r}: {type(pipeline).__name__} cannot be called so: {error}.") from None
    for network in hooks.networks(pipeline):
        cache = type(getattr(network, "_cache_config", None)).__name__
        if cache in UNNAMED_CACHES:
            raise ValueError(
                f"trajectory {name!r}: {type(network).__name__} has a step cache set by {cache}, which does not keep "
                "calls apart. Write network.disable_cache(), or use FirstBlockCacheConfig()."
            )
    steps = trajectory.call_kwargs.get("num_inference_steps", 1)
    if isinstance(steps, int) and steps < 1:
        raise ValueError(f"trajectory {name!r}: num_inference_steps must be at least 1; got {steps}.")


def _check_generators(trajectories: Sequence[Trajectory]) -> None:
    """Refuse a generator shared by two trajectories: their noise would depend on who draws first."""
    owners: dict[int, Trajectory] = {}
    for trajectory in trajectories:
        given = trajectory.call_kwargs.get("generator")
        for generator in given if isinstance(given, (list, tuple)) else [given]:
            if generator is None:
                continue
            owner = owners.setdefault(id(generator), trajectory)
            if owner is not trajectory:
                raise ValueError(
                    f"trajectories {owner.name!r} and {trajectory.name!r} share one generator, so that the noise of "
                    "each would depend on the other. Give each its own: generator=torch.Generator().manual_seed(1)."
                )
