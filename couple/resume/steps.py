"""The steps of one call as a checkpoint needs them: what they gave that its pipeline may still hold.

Most pipelines hold one state, which their scheduler's last step gave. Some hold more: windows that step one after the
other, frames or sound with schedulers of their own, the last result of an earlier stage. So the results of the latest
timestep of every scheduler are kept, with those of the timestep before while fewer steps were taken at the latest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from couple import hooks, schedulers
from couple.resume import states
from couple.schedulers.reading import number

if TYPE_CHECKING:
    from couple.engine.arrival import Arrival
    from couple.engine.calls import Call


class Steps:
    """Records the steps of one call and, where there is a record already, answers with it.

    Args:
        call: whose steps.
        saved: what `kept` returned in an earlier run.

    Attributes:
        caught_up: whether the call is where the saved record ends, so that its numbers count from now on.
    """

    def __init__(self, call: Call, saved: dict[str, Any] | None) -> None:
        """Start before the first step."""
        self._call = call
        self._saved = saved
        self._taken = 0
        self._latest: dict[int, list[tuple[int, Any, dict[str, Any]]]] = {}
        self._sent_on = self._state()

    @property
    def caught_up(self) -> bool:
        """Whether everything that was kept has been given back."""
        return self._saved is None or self._taken >= self._saved["taken"]

    def answer(self, arrival: Arrival) -> None:
        """Send an arrival on with what was kept of it, or with nothing done; at the last one put the state back."""
        assert self._saved is not None
        stay = arrival.stay()
        found = self._saved["results"].get(self._taken)
        arrival.result = _replaced(arrival.result, {"first": stay} if found is None else found)
        self._count(arrival.ordinal, arrival.timestep, arrival.result)
        if self._taken == self._saved["taken"]:
            self._put(self._saved["state"], _values(arrival.result)["first"])
            self._sent_on = self._state()

    def meets(self, arrival: Arrival) -> None:
        """Take note of an arrival that was sent on."""
        self._count(arrival.ordinal, arrival.timestep, arrival.result)
        self._sent_on = self._state()

    def aside(self, ordinal: int, timestep: Any, result: Any) -> Any:
        """Take note of a step that met nobody; return its result, or the one that was kept of it."""
        found = None
        if self._saved is not None:
            late = self._saved["late"]
            found = {**self._saved["results"], **late["results"]}.get(self._taken)
            if found is not None:
                result = _replaced(result, found)
        self._count(ordinal, timestep, result)
        if self._saved is not None and found is not None and self._taken == late["taken"]:
            self._put_parts(late["parts"])
        return result

    def kept(self) -> dict[str, Any]:
        """Return what a checkpoint needs; it may be written later, and is not changed by what follows."""
        taken, results, state = self._sent_on
        late = {"taken": self._taken, "results": self._results(taken), "parts": []}
        if late["results"]:
            late["parts"] = self._parts_now({})
        return {"taken": taken, "results": results, "state": state, "late": late}

    def _count(self, ordinal: int, timestep: Any, result: Any) -> None:
        timestep = number(timestep) if isinstance(timestep, Tensor) else timestep
        entries = self._latest.setdefault(ordinal, [])
        entries.append((self._taken, timestep, states.copied(_values(result))))
        self._taken += 1
        if self._call.evaluations > 1:
            del entries[:-1]
            return
        here = sum(at == timestep for _, at, _ in entries)
        before = [at for _, at, _ in entries if at != timestep]
        there = before.count(before[-1]) if before else 0
        keep = {timestep} if here >= there else {timestep, before[-1]}
        entries[:] = [entry for entry in entries if entry[1] in keep]

    def _results(self, start: int = 0) -> dict[int, dict[str, Any]]:
        found = (entry for entries in self._latest.values() for entry in entries)
        return {index: values for index, _, values in found if index >= start}

    def _state(self) -> tuple[int, dict[int, Any], dict[str, Any]]:
        memo: dict[int, Any] = {}
        state = {
            "parts": self._parts_now(memo),
            "generators": [generator.get_state() for generator in generators(self._call)],
            "master": states.copied(self._call.state.master, memo),
        }
        return self._taken, self._results(), state

    def _put(self, state: dict[str, Any], returned: Tensor) -> None:
        self._put_parts(state["parts"])
        for generator, saved in zip(generators(self._call), state["generators"], strict=True):
            generator.set_state(saved)
        self._call.state.restore(state["master"], returned)

    def _parts_now(self, memo: dict[int, Any]) -> list[dict[str, Any]]:
        return [states.taken(part, memo) for part in self._parts()]

    def _put_parts(self, saved: list[dict[str, Any]]) -> None:
        memo: dict[int, Any] = {}
        for part, state in zip(self._parts(), saved, strict=True):
            states.put(part, state, memo)

    def _parts(self) -> list[Any]:
        """The schedulers and guiders that this call owns, and the copies it made of them."""
        named = [
            schedulers.behind(value)
            for _, name, value in hooks.parts(self._call.pipeline)
            if (hooks.is_scheduler_name(name) or hooks.is_guider_name(name)) and hasattr(value, "__dict__")
        ]
        return list({id(part): part for part in [*named, *self._call.schedulers]}.values())


def generators(call: Call) -> list[torch.Generator]:
    """The generators among the arguments of a call, in their order."""
    given = [
        value for value in call.trajectory.call_kwargs.values() if isinstance(value, torch.Generator | list | tuple)
    ]
    flat = [item for value in given for item in (value if isinstance(value, list | tuple) else [value])]
    return [item for item in flat if isinstance(item, torch.Generator)]


def _values(result: Any) -> dict[str, Any]:
    """What `scheduler.step` returned, by name; the state it landed on is the "first"."""
    if isinstance(result, tuple):
        return {"first" if k == 0 else str(k): value for k, value in enumerate(result)}
    own = dict(result) if isinstance(result, Mapping) else vars(result)
    return {"first" if name == "prev_sample" else name: value for name, value in own.items()}


def _replaced(result: Any, values: dict[str, Any]) -> Any:
    """The same kind of result with other values.

    Raises:
        ValueError: a value is not of the shape that it replaces.
    """
    own = _values(result)
    for name, value in values.items():
        if isinstance(value, Tensor) and getattr(own.get(name), "shape", None) != value.shape:
            raise ValueError(f"a state of shape {tuple(value.shape)} was kept where another is due")
    if isinstance(result, tuple):
        return tuple(values.get(name, value) for name, value in own.items())
    for name, value in values.items():
        setattr(result, "prev_sample" if name == "first" else name, value)
    return result
