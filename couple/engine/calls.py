"""One trajectory's pipeline call: a greenlet that can be paused, and the two places where it pauses.

A call pauses at the forward of a network it shares (a `requests.Request`) and at `scheduler.step` (an
`arrival.Arrival`). The hooks in the schedulers and networks only post what they were given and wait; the engine decides
what happens.

Clock: a call that is about to take step i of K is at progress i / K, exactly (`Fraction`). Calls with unequal step
counts are due at different meetings; meanwhile the others are represented by the prediction of their last step.
A method may ask for several evaluations of the network before each step; each of them is an arrival, and a tick.
"""

from __future__ import annotations

import contextvars
import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import greenlet
import torch
from torch import Tensor, nn

from couple import hooks, schedulers
from couple.engine.arrival import Arrival
from couple.engine.modes import Modes
from couple.engine.precision import MasterState
from couple.engine.requests import Request
from couple.schedulers.reading import number, numbers
from couple.trajectory import Trajectory

if TYPE_CHECKING:
    from couple.resume.steps import Steps


class Abandoned(BaseException):
    """Raised inside the other calls when one has failed; no `except Exception` of a pipeline may swallow it."""


class Turn(greenlet.greenlet):
    """The greenlet of a call; hooks find the call they run in by `greenlet.getcurrent()`."""

    call: Call


class Call:
    """One trajectory's pipeline call: its private pipeline, its torch modes, its place on the clock.

    Attributes:
        waits: what the call waits at; None while it runs or after it has ended.
        output: what the pipeline returned.
        steps: how many steps have been begun, each evaluation before a step counted as one.
        total: how many there are, as far as the scheduler tells.
        evaluations: how often the network is evaluated a step.
        pipeline: the private copy that is called.
        schedulers: those of its schedulers, and their copies, whose steps are heard.
        record: what a checkpoint needs of its steps; None where there is none.
    """

    def __init__(self, trajectory: Trajectory, processors: hooks.Processors, evaluations: int = 1) -> None:
        """Make the private pipeline; nothing runs yet."""
        self.trajectory = trajectory
        self.evaluations = evaluations
        self.waits: Request | Arrival | None = None
        self.output: Any = None
        self.steps = 0
        self.total = 1
        self.state = MasterState()
        self.schedulers: list[Any] = []
        self.record: Steps | None = None
        self.original_steps = False
        self.modes = Modes.current()
        self.processors = processors.now()
        self.cache_contexts: dict[int, tuple[str, dict[str, Any]]] = {}
        self._layers = processors
        self._guard: torch.inference_mode | None = None
        self._abandoned = False
        self._hub = greenlet.getcurrent()
        self._turn = Turn(self._run)
        self._turn.call = self
        self._turn.gr_context = contextvars.copy_context()
        self.pipeline = hooks.private_copy(trajectory.pipeline, functools.partial(hook_scheduler, self))

    def _run(self) -> None:
        self.output = self.pipeline(**self.trajectory.call_kwargs)

    @property
    def running(self) -> bool:
        """Whether this call is the one that runs right now."""
        return greenlet.getcurrent() is self._turn

    def wait(self, what: Request | Arrival) -> Any:
        """Pause (from inside the call) until the engine resumes it; return what it is given."""
        if self._abandoned:
            raise Abandoned
        self.waits = what
        return self._hub.switch()

    def ask(self, module: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any, alone: bool) -> Any:
        """Pause (from inside the call) at a network's forward; return its output."""
        return self.wait(Request(module, forward, args, kwargs, Modes.current(), self._layers.now(), alone))

    def resume(self, value: Any = None) -> None:
        """Run this call until it pauses again or ends. An error inside it is raised here."""
        with self._in_force():
            self._turn.switch(value) if self._turn else self._turn.switch()

    def abandon(self) -> None:
        """Make a paused call unwind: its `finally` blocks run, and what they raise is of no interest any more."""
        self._abandoned = True
        if self._turn:
            with self._in_force(), suppress(Abandoned, Exception):
                self._turn.throw(Abandoned)

    @contextmanager
    def _in_force(self) -> Iterator[None]:
        """Give the thread this call's torch modes and attention processors; keep what it leaves behind."""
        outside = Modes.current()
        self.waits = None
        if self._guard is not None:
            self._guard.__exit__(None, None, None)
        self.modes.enter()
        self._layers.put(self.processors)
        try:
            yield
        finally:
            self.modes = Modes.current()
            self.processors = self._layers.now()
            self._guard = outside.enter()

    def advance(self, scheduler: Any, timestep: Any) -> Fraction:
        """Count one step and return the progress before it, in [0, 1)."""
        if self.steps == 0:
            self.total = _steps_ahead(scheduler, timestep) * self.evaluations
        done = self.steps
        self.steps += 1
        # Some pipelines step more often than `timesteps` is long (one step a window): the clock just never ends.
        self.total = max(self.total, self.steps)
        return Fraction(done, self.total)


def hook_scheduler(call: Call, scheduler: Any, is_copy: bool = False) -> None:
    """Make the `step` of a private scheduler a meeting, and let its deep copies know that they are copies.

    Both are attributes of the instance: its class stays the stock one, which a pipeline may insist on (Bria). They
    are plain functions because a pipeline may copy the scheduler's `__dict__` and put it back (Panorama).
    """
    if not hasattr(scheduler, "step"):
        return  # score-SDE predictors and correctors: nothing to meet at
    scheduler.__class__ = schedulers.carrying_class(type(scheduler))
    if call.evaluations > 1:
        scheduler = schedulers.repeat(scheduler, call.evaluations)
    stock_step = scheduler.step
    signature = inspect.signature(stock_step)
    ordinal = len(call.schedulers)
    call.schedulers.append(scheduler)

    @functools.wraps(stock_step)
    def step(*args: Any, **kwargs: Any) -> Any:
        # A pipeline may deep-copy its scheduler for a second state (sound beside pictures), which steps on its own,
        # or for each frame of its only state (diffusion forcing), which is then what meets.
        call.original_steps |= not is_copy
        if not call.running:
            return stock_step(*args, **kwargs)
        if is_copy and call.original_steps:
            result = stock_step(*args, **kwargs)
            timestep = signature.bind(*args, **kwargs).arguments.get("timestep")
            return result if call.record is None else call.record.aside(ordinal, timestep, result)
        arrival = Arrival(call, ordinal, stock_step, signature.bind(*args, **kwargs))
        call.wait(arrival)
        return arrival.result

    def deepcopy(memo: dict[int, Any]) -> Any:
        if call.evaluations > 1:
            raise NotImplementedError(
                f"trajectory {call.trajectory.name!r}: {type(call.trajectory.pipeline).__name__} steps a second state "
                "with a copy of its scheduler, which cannot wait while this one is evaluated again at a level. Use a "
                "method with one evaluation a step, e.g. couple.methods.ScoreAverage()."
            )
        twin = memo[id(scheduler)] = object.__new__(type(scheduler))
        own = {name: value for name, value in vars(scheduler).items() if name not in members}
        vars(twin).update(copy.deepcopy(own, memo))
        hook_scheduler(call, twin, is_copy=True)
        return twin

    members = {"step": step, "__deepcopy__": deepcopy}
    vars(scheduler).update(members)


@functools.cache
def hooked_network(cls: type) -> type:
    """Make the class of a shared network: a forward from inside a call is a request; others run as ever.

    The class is made once, so that a compiled network does not meet a new type at every run.
    """

    def __call__(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        turn = greenlet.getcurrent()
        if not isinstance(turn, Turn):
            return cls.__call__(self, *args, **kwargs)
        call = turn.call
        context = call.cache_contexts.get(id(self))
        cached = getattr(self, "is_cache_enabled", False)

        def forward(*args: Any, **kwargs: Any) -> Any:
            if not cached or context is None:
                return cls.__call__(self, *args, **kwargs)
            with cls.cache_context(self, context[0], **context[1]):
                return cls.__call__(self, *args, **kwargs)

        return call.ask(self, forward, args, kwargs, alone=cached)

    members: dict[str, Any] = {"__call__": __call__}
    if hasattr(cls, "cache_context"):

        @contextmanager
        def cache_context(self: nn.Module, name: str, **kwargs: Any) -> Iterator[None]:
            # Step caches are keyed by this name; two calls under one name would read each other's residuals.
            turn = greenlet.getcurrent()
            if isinstance(turn, Turn):
                name = f"{name} {id(turn.call)}"
                turn.call.cache_contexts[id(self)] = (name, kwargs)
            with cls.cache_context(self, name, **kwargs):
                yield

        def _reset_stateful_cache(self: nn.Module, recurse: bool = True) -> None:
            # A pipeline that ends clears the caches of its networks: others may still be using theirs.
            if not isinstance(greenlet.getcurrent(), Turn):
                cls._reset_stateful_cache(self, recurse)

        members |= {"cache_context": cache_context, "_reset_stateful_cache": _reset_stateful_cache}
    return hooks.subclass(cls, members)


def _steps_ahead(scheduler: Any, timestep: Any) -> int:
    """How many steps the scheduler's table holds from `timestep` on (img2img starts in the middle)."""
    table = getattr(scheduler, "timesteps", None)
    if table is None or timestep is None or (isinstance(timestep, Tensor) and timestep.numel() != 1):
        return 1
    table, start = list(numbers(table)), number(timestep)
    return len(table) - (table.index(start) if start in table else 0)
