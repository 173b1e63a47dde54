"""Making a run again up to where it stopped, without its networks.

A pipeline's call cannot be saved: it is a Python frame. It can be made again, though. Until the meeting after which a
run stopped, a forward is answered with what the first forward of its kind gave, schedulers step on whatever is in
hand, and nobody is coupled; so every counter, cache and loop of pipelines and schedulers gets where it was, only the
numbers are wrong. Then they are put right: states, histories, generators and predictions as they were kept. The meeting
that follows was seen before the run stopped, and what arrives there is compared: a pipeline that keeps more than its
states between two steps, or networks with other weights, are named and do not go on with wrong numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from couple import hooks
from couple.engine.arrival import Arrival
from couple.engine.calls import Call
from couple.engine.precision import HALF
from couple.engine.requests import Request
from couple.resume import momenta, states
from couple.resume.checkpoint import Checkpoint
from couple.resume.interrupts import Interrupts
from couple.resume.steps import Steps, generators
from couple.trajectory import Trajectory
from couple.weights import Level


class Replay:
    """What one run keeps, and, where it goes on from a checkpoint, what was kept.

    Args:
        checkpoint: where to.
        run: the run in words, `fingerprint.described`.
        method: whose memory is kept too.
        interrupts: looked at before every meeting.

    Attributes:
        resumes: whether there was a checkpoint.
        meetings: how many meetings are over.

    Raises:
        ValueError: the checkpoint is damaged, or that of another run.
    """

    def __init__(self, checkpoint: Checkpoint, run: Mapping[str, str], method: Any, interrupts: Interrupts) -> None:
        """Read the checkpoint, if there is one."""
        self._checkpoint = checkpoint
        self._run = run
        self._method = method
        self._interrupts = interrupts
        self._saved: Any = checkpoint.read(run)
        checkpoint.prepare()
        self._calls: Sequence[Call] = ()
        self._start: Any = None
        self._sent_on: dict[str, Any] = {}
        self._answers: dict[Any, Any] = {}
        self._written = 0
        self.meetings = 0
        self.resumes = self._saved is not None

    @property
    def goes_on(self) -> bool:
        """Whether meetings are still to be answered with what was kept."""
        return self._saved is not None and self.meetings < self._saved["meetings"]

    def begin(self, calls: Sequence[Call]) -> dict[Trajectory, str]:
        """Before the first call starts: take the state of the generators, or put it back.

        Returns:
            The trajectories that were given up before the run stopped, and why.
        """
        self._calls = calls
        saved = self._saved
        with self._fitting():
            if saved is None:
                self._start = {"random": _random(), "generators": [_drawn(call) for call in calls]}
            else:
                self._start = saved["start"]
                _put_random(self._start["random"])
                for call, drawn in zip(calls, self._start["generators"], strict=True):
                    for generator, state in zip(generators(call), drawn, strict=True):
                        generator.set_state(state)
            for k, call in enumerate(calls):
                call.record = Steps(call, None if saved is None else saved["calls"][k])
            lost = {} if saved is None else {calls[k].trajectory: str(why) for k, why in saved["lost"].items()}
            self._written = 0 if saved is None else int(saved["meetings"])
        self._keep({}, {}, lost)
        return lost

    def answer(self, requests: Sequence[tuple[Call, Request]]) -> list[Any] | None:
        """Outputs for forwards whose numbers do not count; None if some do, and all have to be made.

        All, because a forward whose numbers count is made in the company that it had.
        """
        if not self.goes_on or any(call.record is None or call.record.caught_up for call, _ in requests):
            return None
        keys = [_kind(*asked) for asked in requests]
        if not all(key in self._answers for key in keys):
            return None
        return [pytree.tree_map(_clone, self._answers[key]) for key in keys]

    def note(self, requests: Sequence[tuple[Call, Request]], outputs: Sequence[Any]) -> None:
        """Remember what forwards gave, as answers to others of their kind."""
        if self.goes_on:
            self._answers.update(zip((_kind(*asked) for asked in requests), outputs, strict=True))

    def repeat(self, due: Sequence[tuple[Call, Arrival]]) -> tuple[dict[Trajectory, Tensor], dict[Trajectory, Level]]:
        """Send arrivals on as they were; return everyone's latest predictions and levels once all is as it was."""
        saved = self._saved
        with self._fitting():
            for call, arrival in due:
                assert call.record is not None
                call.record.answer(arrival)
            self.meetings += 1
            if self.goes_on:
                return {}, {}
            self._answers = {}
            who = [call.trajectory for call in self._calls]
            x0 = {who[k]: tensor for k, tensor in saved["x0"].items()}
            levels = {who[k]: Level(**level) for k, level in saved["levels"].items()}
            self._method.recall(saved["method"])
            _put_random(saved["random"])
            self._keep(x0, levels, {who[k]: why for k, why in saved["lost"].items()})
        return x0, levels

    def arrived(self, arrivals: Sequence[tuple[Call, Arrival]]) -> None:
        """Before a meeting: compare it with what was seen of it, write the checkpoint if it is time, stop if asked.

        Raises:
            ValueError: what arrives is not what was seen.
            KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM came.
        """
        if self._saved is not None:
            with self._fitting():
                for call, arrival in arrivals:
                    self._compare(arrival, self._saved["seen"].get(self._calls.index(call)))
            self._saved = None
        if self._interrupts.pending or self.meetings - self._written >= self._checkpoint.every:
            self._write(arrivals)
        if self._interrupts.pending:
            self._stop()

    def sent_on(
        self,
        due: Sequence[tuple[Call, Arrival]],
        x0: Mapping[Trajectory, Tensor],
        levels: Mapping[Trajectory, Level],
        lost: Mapping[Trajectory, str],
    ) -> None:
        """After a meeting, before its calls go on: take what the next checkpoint will need."""
        for call, arrival in due:
            assert call.record is not None
            call.record.meets(arrival)
        self.meetings += 1
        self._keep(x0, levels, lost)

    def finish(self) -> None:
        """After all calls have ended well: write the last checkpoint if it is to be kept, or remove it."""
        if self._interrupts.pending or self._checkpoint.keep:
            self._write([])
        if self._interrupts.pending:
            self._stop()
        if not self._checkpoint.keep:
            self._checkpoint.remove()

    def _stop(self) -> None:
        where = f"after {self.meetings} meetings" if self.meetings != 1 else "after the first meeting"
        if self._written == self.meetings and self._checkpoint.path.exists():
            self._interrupts.act(f"stopped {where}; the same call goes on from there ({self._checkpoint.path}).")
        self._interrupts.act(f"stopped {where}; the checkpoint could not be written.")

    def _keep(
        self, x0: Mapping[Trajectory, Tensor], levels: Mapping[Trajectory, Level], lost: Mapping[Trajectory, str]
    ) -> None:
        number = {call.trajectory: k for k, call in enumerate(self._calls)}
        self._sent_on = {
            "meetings": self.meetings,
            "random": _random(),
            "method": self._method.remember(),
            "x0": {number[trajectory]: tensor for trajectory, tensor in x0.items()},
            "levels": {number[trajectory]: asdict(level) for trajectory, level in levels.items()},
            "lost": {number[trajectory]: why for trajectory, why in lost.items()},
        }

    def _write(self, arrivals: Sequence[tuple[Call, Arrival]]) -> None:
        calls = [call.record.kept() for call in self._calls if call.record is not None]
        seen = {self._calls.index(call): _seen(arrival) for call, arrival in arrivals}
        if self._checkpoint.write(self._run, {**self._sent_on, "start": self._start, "calls": calls, "seen": seen}):
            self._written = self.meetings

    def _compare(self, arrival: Arrival, then: dict[str, Any] | None) -> None:
        if then is None:
            return
        now, who = _seen(arrival), arrival.trajectory
        kind = type(who.pipeline).__name__
        if (now["sample"], now["scheduler"]) != (then["sample"], then["scheduler"]):
            raise ValueError(
                f"trajectory {who.name!r}: {kind} keeps more between its steps than a checkpoint does, so it cannot go "
                f"on from {self._checkpoint.path}. Remove the file to start from the beginning, and sample this "
                "pipeline without checkpoint=."
            )
        difference = _distance(now["output"], then["output"])
        if difference == 0.0:
            return
        if not difference <= (2e-2 if then["output"].dtype in HALF else 1e-3):
            raise ValueError(
                f"trajectory {who.name!r}: at step {arrival.position[0]} its prediction is not what it was (off by "
                f"{difference:.2g} of its size), so the run cannot go on from {self._checkpoint.path}. Either the "
                f"networks have other weights than they had, or {kind} keeps something between its steps: give the "
                "same weights, or remove the file to start from the beginning."
            )
        warnings.warn(
            f"trajectory {who.name!r}: its networks give other numbers than before the run stopped (by "
            f"{difference:.1g} of their size), as on another machine. The run goes on, but will not be bit-equal to "
            "one that never stopped.",
            RuntimeWarning,
            stacklevel=2,
        )

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        """Name the file where what it holds does not fit this run, although its description does."""
        try:
            yield
        except (KeyError, IndexError, TypeError, AttributeError, RuntimeError) as error:
            if self._saved is None:
                raise
            raise ValueError(
                f"{self._checkpoint.path} does not fit this run ({type(error).__name__}: {error}). Remove the file to "
                "start from the beginning."
            ) from error


def check(trajectories: Sequence[Trajectory], method: Any) -> None:
    """Refuse what a checkpoint cannot hold.

    Raises:
        ValueError: a network has a step cache, or a pipeline a momentum that lives inside its call.
        TypeError: the method does not say what it remembers.
    """
    for trajectory in trajectories:
        momenta.check(trajectory)
        for network in hooks.networks(trajectory.pipeline):
            if getattr(network, "is_cache_enabled", False):
                raise ValueError(
                    f"trajectory {trajectory.name!r}: {type(network).__name__} has a step cache, whose memory a "
                    "checkpoint does not hold. Write network.disable_cache(), or sample without checkpoint=."
                )
    if not hasattr(method, "remember") or not hasattr(method, "recall"):
        name = type(method).__name__
        raise TypeError(
            f"{name} does not say what it remembers from one meeting to the next, so no checkpoint can hold it. Give "
            "it `remember()`, which returns that as plain values and tensors, and `recall(memory)`, which takes it "
            "back."
        )


def _kind(call: Call, request: Request) -> tuple[Any, ...]:
    """What forwards have in common that give outputs of one shape."""
    plain = tuple(leaf for leaf in request.leaves if leaf is None or isinstance(leaf, bool | str))
    return id(call), request.key, request.rows, plain, str(request.spec)


def _clone(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


def _seen(arrival: Arrival) -> dict[str, Any]:
    return {
        "sample": states.digest(arrival.given),
        "scheduler": states.digest(states.taken(arrival.scheduler)),
        "output": states.copied(arrival.model_output),
    }


def _distance(now: Tensor, then: Tensor) -> float:
    """How far two predictions differ, as a share of their size; nan is equal to itself."""
    if now.shape != then.shape or now.dtype != then.dtype:
        return float("inf")
    then = then.to(now.device)
    if torch.equal(now, then):
        return 0.0
    now, then = now.double(), then.double()
    same = (now == then) | (now.isnan() & then.isnan())
    return float((now - then)[~same].norm() / then.norm()) if not bool(same.all()) else 0.0


def _drawn(call: Call) -> list[Tensor]:
    return [generator.get_state() for generator in generators(call)]


def _random() -> dict[str, Tensor]:
    """State of torch's own generators, from which pipelines draw that were given none."""
    found = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        found |= {f"cuda:{k}": torch.cuda.get_rng_state(k) for k in range(torch.cuda.device_count())}
    return found


def _put_random(saved: Mapping[str, Tensor]) -> None:
    for device, state in saved.items():
        if device == "cpu":
            torch.set_rng_state(state)
        elif torch.device(device).index < torch.cuda.device_count():
            torch.cuda.set_rng_state(state, device)
