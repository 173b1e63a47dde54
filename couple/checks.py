"""Refusing what cannot be sampled, before anything runs."""

from __future__ import annotations

import inspect
import operator
import os
from collections.abc import Sequence
from typing import Any

from couple import hooks, latents, memory, methods
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


def check_options(method: Any, placement: Any, callback: Any, checkpoint: Any, parallel: Any) -> None:
    """Refuse arguments of `sample` that are not of their kind; None is always right.

    Raises:
        TypeError: one is not.
        IsADirectoryError: the checkpoint is a folder.
    """
    if isinstance(method, type):
        raise TypeError(f"`method` is the class {method.__name__}, not a method. Did you mean {method.__name__}()?")
    missing = [name for name in ("evaluations", "begin", "meet") if not hasattr(method, name)]
    if method is not None and missing:
        named = [name for name in methods.__all__ if name.lower() == str(method).lower()]
        raise TypeError(
            f"`method` must be a method, which has {', '.join(missing)}; got {method!r:.80}. "
            f"Did you mean couple.methods.{named[0] if named else 'Coupled'}()?"
        )
    if placement is not None and not isinstance(placement, memory.Placement):
        wanted = repr(placement) if placement in ("resident", "stream", "auto") else "'auto'"
        raise TypeError(
            f"`placement` must be a Placement; got {placement!r:.80}. Did you mean couple.Placement({wanted})?"
        )
    if checkpoint is not None:
        from couple.resume.checkpoint import Checkpoint

        if not isinstance(checkpoint, Checkpoint):
            path = repr(os.fspath(checkpoint)) if isinstance(checkpoint, str | os.PathLike) else "'run.checkpoint'"
            raise TypeError(
                f"`checkpoint` must be a Checkpoint; got {checkpoint!r:.80}. Did you mean couple.Checkpoint({path})?"
            )
        if checkpoint.path.is_dir():
            inside = repr(str(checkpoint.path / "run.checkpoint"))
            raise IsADirectoryError(
                f"the checkpoint {checkpoint.path} is a folder. Give a file in it, couple.Checkpoint({inside})."
            )
    if parallel is not None:
        from couple.parallel import Ranks

        if not isinstance(parallel, Ranks):
            raise TypeError(
                f"`parallel` must be the processes that share the work; got {parallel!r:.80}. Start them with torchrun "
                "--nproc-per-node N, and give couple.parallel.Ranks()."
            )
    _check_callback(callback)


def _check_callback(callback: Any) -> None:
    if callback is None:
        return
    if not callable(callback):
        raise TypeError(f"`callback` must be a function of one argument, callback(info); got {callback!r:.80}.")
    try:
        signature = inspect.signature(callback)
    except ValueError:  # some that are written in C do not tell
        return
    try:
        signature.bind(None)
    except TypeError:
        name = getattr(callback, "__name__", type(callback).__name__)
        raise TypeError(
            f"`callback` is called with one argument, callback(info), which {name}{signature} does not take. Write "
            f"`def {name}(info)`, which has info.step, info.x0, info.energies and info.pull_norms; a callback of the "
            "pipeline's own is an argument of its Trajectory."
        ) from None


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
    steps = trajectory.call_kwargs.get("num_inference_steps")
    try:
        count = 1 if steps is None else operator.index(steps)
    except TypeError:
        raise TypeError(
            f"trajectory {name!r}: num_inference_steps must be a whole number, e.g. num_inference_steps=20; got "
            f"{steps!r:.80}."
        ) from None
    if count < 1:
        raise ValueError(f"trajectory {name!r}: num_inference_steps must be at least 1; got {count}.")


def _check_generators(trajectories: Sequence[Trajectory]) -> None:
    """Refuse a generator shared by two trajectories: their noise would depend on who draws first."""
    owners: dict[int, Trajectory] = {}
    for trajectory in trajectories:
        given = trajectory.call_kwargs.get("generator")
        for generator in given if isinstance(given, (list, tuple)) else [given]:
            if generator is None:
                continue
            if isinstance(generator, int):
                raise TypeError(
                    f"trajectory {trajectory.name!r}: `generator` is the number {generator}, not a generator. Did you "
                    f"mean torch.Generator().manual_seed({generator:d})?"
                )
            owner = owners.setdefault(id(generator), trajectory)
            if owner is not trajectory:
                raise ValueError(
                    f"trajectories {owner.name!r} and {trajectory.name!r} share one generator, so that the noise of "
                    "each would depend on the other. Give each its own: generator=torch.Generator().manual_seed(1)."
                )
