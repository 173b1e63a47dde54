"""`sample`: the one verb. It checks what was asked, runs the engine and hands back what the pipelines returned."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from couple import coupling, hooks, latents, schedulers, weights
from couple.engine import Engine, Meeting, Method
from couple.graph import Edge
from couple.methods import Coupled
from couple.trajectory import Trajectory
from couple.weights import Level

#: A pull longer than this many standard deviations of the noise landed on is named in a warning.
TOO_FAR = 4.0
#: Step caches of diffusers with one memory a network, whoever calls, and a clock read off the user's pipeline.
UNNAMED_CACHES = frozenset({"FasterCacheConfig", "PyramidAttentionBroadcastConfig"})


class Info:
    """What a callback is shown after every meeting. Nothing in it can edit the run; tensors are copies.

    Attributes:
        step: number of the meeting, from 0.
        progress: how far the calls that stepped were before it, in [0, 1).
        levels: the level each trajectory last landed on.
    """

    def __init__(self, step: int, meeting: Meeting) -> None:
        """Keep a view of the meeting; nothing is computed before it is asked for."""
        self.step = step
        self.progress = float(meeting.due[0].progress)
        self.levels: Mapping[Trajectory, Level] = MappingProxyType(dict(meeting.levels))
        self._x0 = dict(meeting.x0)
        self._edges = meeting.edges
        self._pulls = {arrival.trajectory: arrival.pull for arrival in meeting.due}

    @cached_property
    def x0(self) -> Mapping[Trajectory, Tensor]:
        """Each trajectory's latest clean prediction: float32, shape of its state, in latent space."""
        return MappingProxyType({trajectory: x0.clone() for trajectory, x0 in self._x0.items()})

    @cached_property
    def energies(self) -> Mapping[Edge, float]:
        """Each edge's energy before its weight, summed over elements."""
        found = coupling.energies(self._x0, self._edges)
        return MappingProxyType({edge: float(energy) for edge, energy in found.items()})

    @cached_property
    def pull_norms(self) -> Mapping[Trajectory, float]:
        """Length of what was added to the state of each trajectory that stepped; 0 where nothing was."""
        norms = {t: 0.0 if pull is None else float(pull.norm()) for t, pull in self._pulls.items()}
        return MappingProxyType(norms)


class Result(Mapping[Trajectory, Any]):
    """What each trajectory's pipeline returned, by trajectory.

    Attributes:
        forwards: how many forwards the shared networks made (merged ones count once).
        steps: how many scheduler steps each trajectory took; under a method with several evaluations of the network
            a step, how many evaluations.
    """

    def __init__(self, outputs: dict[Trajectory, Any], forwards: int, steps: dict[Trajectory, int]) -> None:
        """Wrap the outputs of a run."""
        self._outputs = outputs
        self.forwards = forwards
        self.steps: Mapping[Trajectory, int] = MappingProxyType(steps)

    def __getitem__(self, trajectory: Trajectory) -> Any:
        """Return what `trajectory.pipeline(...)` returned."""
        return self._outputs[trajectory]

    def __iter__(self) -> Iterator[Trajectory]:
        """Iterate over the trajectories in the order given to `sample`."""
        return iter(self._outputs)

    def __len__(self) -> int:
        """Return the number of trajectories."""
        return len(self._outputs)


def sample(
    trajectories: Sequence[Trajectory],
    edges: Sequence[Edge] = (),
    *,
    method: Method | None = None,
    max_batch: int | None = None,
    callback: Callable[[Info], None] | None = None,
    progress: bool = True,
) -> Result:
    """Run the pipeline calls of all trajectories side by side and let the edges pull on them.

    Args:
        trajectories: the calls to make. Each gets private copies of its pipeline's schedulers; networks are shared.
        edges: who pulls on whom, e.g. from `pair`, `chain`, `complete`, `star`. Without edges every call gives what
            it gives alone.
        method: what happens when calls meet at a step, see `couple.methods`; None for `methods.Coupled()`.
        max_batch: how many calls one forward of a shared network may serve. None merges what it can (results equal
            separate forwards to rounding); 1 never merges and is bit-identical to the stock calls at weight 0.
        callback: called as `callback(info)` after every meeting, see `Info`.
        progress: whether to show one progress bar for all calls.

    Returns:
        A mapping from each trajectory to exactly what its pipeline returned.

    Raises:
        TypeError: something is not what it must be (an edge, an argument the pipeline does not take).
        ValueError: a setting cannot work (no steps, a shared generator, an edge to a trajectory not sampled, or between
            different latent spaces).
        NotImplementedError: a trajectory with an edge has a scheduler whose predictions cannot be read, or that the
            method cannot use.
        FloatingPointError: a coupled state is no longer finite.
    """
    trajectories, edges = _checked(trajectories, edges, max_batch)
    if isinstance(method, type):
        raise TypeError(f"`method` is the class {method.__name__}, not a method. Did you mean {method.__name__}()?")
    method = Coupled() if method is None else method
    linked = {trajectory for edge in edges for trajectory in edge.trajectories}
    for trajectory in trajectories:
        if trajectory in linked or callback is not None:
            for scheduler in hooks.main_schedulers(trajectory.pipeline):
                schedulers.check(scheduler)
    method.begin(trajectories, edges)
    engine = Engine(trajectories, edges, max_batch, method.evaluations)
    watched = frozenset(trajectories if callback is not None else linked)
    with tqdm(disable=not progress, unit="step", desc="sampling") as bar:
        watch = _Watch(engine, edges, callback, bar)
        outputs = engine.run(method, watched, watch)
    watch.finish()
    for call in engine.calls:
        if call.trajectory in linked and call.steps == 0:
            warnings.warn(
                f"{call.trajectory.name!r} has an edge, but {type(call.trajectory.pipeline).__name__} never called "
                "its scheduler's step: nothing was coupled.",
                RuntimeWarning,
                stacklevel=2,
            )
    return Result(outputs, engine.merger.forwards, {call.trajectory: call.steps for call in engine.calls})


class _Watch:
    """Looks at every meeting: moves the progress bar, notices divergence, calls the user's callback."""

    def __init__(
        self, engine: Engine, edges: Sequence[Edge], callback: Callable[[Info], None] | None, bar: tqdm
    ) -> None:
        self._engine = engine
        self._edges = edges
        self._callback = callback
        self._bar = bar
        self._meetings = 0
        self._warned: set[Trajectory] = set()
        self._later: list[tuple[Tensor, _Pulled]] = []

    def __call__(self, meeting: Meeting) -> None:
        self._bar.total = sum(call.total for call in self._engine.calls)
        self._bar.update(len(meeting.due))
        for arrival in meeting.due:
            if arrival.pull is not None:
                pulled = _Pulled(arrival.trajectory, arrival.position, arrival.level.sigma, arrival.pull.numel())
                if arrival.pull.device.type == "cpu":
                    self._judge(float(np.linalg.norm(arrival.pull.numpy().ravel())), pulled)
                else:
                    # Reading it now would make the device wait; a run that diverged is named when it is over.
                    self._later.append((torch.linalg.vector_norm(arrival.pull), pulled))
        if self._callback is not None:
            self._callback(Info(self._meetings, meeting))
        self._meetings += 1

    def finish(self) -> None:
        """Judge what could not be read without making the device wait."""
        for norm, pulled in self._later:
            self._judge(float(norm), pulled)

    def _judge(self, norm: float, pulled: _Pulled) -> None:
        edges = [edge for edge in self._edges if pulled.trajectory in edge.trajectories]
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"{pulled.name} is not finite after step {pulled.step} "
                f"(pull norm {norm:.3g}, {_weights(edges)}). "
                "Either a network gave nan or inf, which a run without edges would show, or the coupling is too "
                f"strong: {_weaker(edges)}."
            )
        deviations = norm / (pulled.sigma * math.sqrt(pulled.size))
        if deviations > TOO_FAR and pulled.trajectory not in self._warned:
            self._warned.add(pulled.trajectory)
            warnings.warn(
                f"{pulled.name} was pulled by {deviations:.1f} standard deviations of its noise in step "
                f"{pulled.step} ({_weights(edges)}), where a network has not seen such states: the coupling is "
                f"too strong; {_weaker(edges)}.",
                RuntimeWarning,
                stacklevel=2,
            )


def _weights(edges: Sequence[Edge]) -> str:
    return ", ".join(sorted({f"weight={edge.weight!r}" for edge in edges}))


def _weaker(edges: Sequence[Edge]) -> str:
    """What would make these edges of one trajectory pull less."""
    if len(edges) > 1:
        return f"lower the weight, or divide it by the {len(edges)} edges, e.g. couple.complete(..., normalize=True)"
    if any(weights.made_with(edge.weight, weights.relax) for edge in edges):
        return "lower kappa, e.g. weight=couple.weights.relax(0.3)"
    return "lower the weight, or use a law that never steps past agreement, weight=couple.weights.relax(1.0)"


@dataclass(frozen=True)
class _Pulled:
    """Who was pulled and when: what is left of an arrival until its pull is judged. Holds no tensor."""

    trajectory: Trajectory
    position: tuple[int, int]
    sigma: float
    size: int

    @property
    def name(self) -> str:
        return repr(self.trajectory.name)

    @property
    def step(self) -> str:
        return "{}/{}".format(*self.position)


def _checked(
    trajectories: Sequence[Trajectory], edges: Sequence[Edge], max_batch: int | None
) -> tuple[list[Trajectory], list[Edge]]:
    """Refuse what cannot be sampled, before anything runs."""
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
