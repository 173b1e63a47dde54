"""The networks of a run where its plan wants them, and the ladder down when memory runs out.

What is given up, in this order, at a forward of a denoiser: everybody else's place on the device and the cache of
torch; half of the calls in a forward, again and again; the weights' place on the device, by blocks; forwards side by
side, so that the weights pass for each; the place of whole blocks, so that they pass by layers. At an autoencoder:
everybody else's place; batches, which are decoded row by row; whole pictures, which are decoded in tiles. Forwards and
decoding change nothing but what they return, so they are simply done again.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import nn

from couple import hooks
from couple.autoencoders import is_autoencoder
from couple.engine.merging import Host, Merger, out_of_memory
from couple.memory.guests import Guest, Room
from couple.memory.placement import Placement, Plan, Report, denoises
from couple.memory.streaming import Stream, floor, in_eight_bits, size, tensors


class Residence(Host):
    """Where the networks of one run are.

    Args:
        placement: what was asked for.
        plan: what was chosen.
        networks: all networks of the run.
        stack: what undoes everything when it is closed.

    Attributes:
        report: what has been done.
    """

    def __init__(self, placement: Placement, plan: Plan, networks: Sequence[nn.Module], stack: ExitStack) -> None:
        """Hook the networks; weights move when they are called."""
        assert isinstance(placement.device, torch.device)
        self.report = Report(plan.line)
        self._plan = plan
        self._steps_down = placement.memory == "auto"
        self._stack = stack
        self._room = Room(placement.device, plan.space, self.report.arrived)
        self._guests: dict[nn.Module, Guest] = {}
        self._ends: dict[nn.Module, Callable[[], None]] = {}
        self._streams: dict[nn.Module, tuple[Stream, bool]] = {}
        self._rested: set[nn.Module] = set()
        self._single: set[nn.Module] = set()
        for module in networks:
            if denoises(module):
                if placement.fp8:
                    stack.enter_context(in_eight_bits(module))
                if plan.streams:
                    self._stream(module, plan.leaves, plan.keep[module])
                else:
                    self._invite(module, plan.working.get(module, 0))
            elif is_autoencoder(module):
                self._invite(module, plan.decoding)
                stack.callback(partial(vars(module).update, _tiles(module)))
                self._fit(module)
            elif plan.space is not None and size(tensors(module)) > plan.space:
                self._stream(module, leaves=True, keep=0)
            else:
                self._invite(module, 0)
        if self._steps_down:
            vaes = [module for module in networks if is_autoencoder(module)]
            stack.enter_context(hooks.swapped(vaes, partial(_careful, self)))

    def _invite(self, module: nn.Module, working: int) -> None:
        guest = self._guests[module] = Guest(self._room, tensors(module), working, denoises(module))
        self._room.settle_in(guest)
        self._stack.callback(guest.go_home)
        self._ends[module] = end = guest.join(module)
        self._stack.callback(end)

    def _stream(self, module: nn.Module, leaves: bool, keep: int) -> None:
        stream = Stream(module, self._room.device, leaves, keep, self.report.arrived)
        self._stack.callback(stream.go_home)
        working = self._plan.working.get(module, 0) + floor(module, leaves)
        guest = self._guests[module] = Guest(self._room, stream.kept, working, denoises(module))
        handle = module.register_forward_pre_hook(lambda *_: self._room.bring(guest))

        def end() -> None:
            handle.remove()
            self._room.clear(lambda other: other is guest)
            stream.close()

        self._ends[module] = once = functools.cache(end)
        self._stack.callback(once)
        self._streams[module] = stream, leaves

    def _fit(self, vae: Any) -> None:
        """Decode row by row where space is limited, and in tiles where the plan says that nothing else fits."""
        if self._plan.space is not None and hasattr(vae, "enable_slicing"):
            vae.enable_slicing()
        if vae in self._plan.tiled:
            vae.enable_tiling()

    def streams(self, module: nn.Module) -> bool:
        """Tell whether the weights are brought block by block at each forward."""
        return module in self._streams

    def is_shared(self, module: nn.Module) -> bool:
        """Tell whether forwards of a streamed network may run side by side, on one passage of its weights."""
        return module not in self._single and self._streams[module][0].traced

    def is_here(self, module: nn.Module) -> bool:
        """Tell whether the weights, or those that stay, are on the device."""
        return module not in self._guests or self._room.holds(self._guests[module])

    def relief(self, merger: Merger, module: nn.Module, calls: Sequence[int]) -> Callable[[], None] | None:
        """Return the next rung of the ladder below forwards for so many calls each."""
        if not self._steps_down:
            return None
        if module not in self._rested:
            return partial(self._rest, module)
        if max(calls) > 1:
            return partial(self._halve, merger, module, max(calls) // 2)
        if len(calls) > 1 and module in self._streams and self.is_shared(module):
            return partial(self._separate, module)
        if module not in self._streams:
            return partial(self._move_out, module, leaves=False)
        if not self._streams[module][1]:
            return partial(self._move_out, module, leaves=True)
        return None

    def _rest(self, module: nn.Module) -> None:
        self._rested.add(module)
        self._settle(module)
        self._room.clear(lambda guest: guest is not self._guests.get(module))
        self._empty()
        self.report.stepped(f"{type(module).__name__}: sent other networks away and freed the cache")

    def _halve(self, merger: Merger, module: nn.Module, calls: int) -> None:
        self._settle(module)
        merger.max_batch = calls
        self._empty()
        self.report.stepped(f"{type(module).__name__}: max_batch={calls}")

    def _separate(self, module: nn.Module) -> None:
        self._settle(module)
        self._single.add(module)
        self._empty()
        self.report.stepped(f"{type(module).__name__}: one forward at a time, each with a passage of the weights")

    def _move_out(self, module: nn.Module, leaves: bool) -> None:
        self._settle(module)
        self._room.clear(lambda guest: guest is self._guests[module])
        self._ends[module]()
        self._stream(module, leaves, keep=0)
        self._empty()
        self.report.stepped(f"{type(module).__name__}: weights streamed by {'layers' if leaves else 'blocks'}")

    def _settle(self, module: nn.Module) -> None:
        if module in self._streams:
            self._streams[module][0].settle()

    def _empty(self) -> None:
        gc.collect()
        if self._room.device.type == "cuda":
            torch.cuda.empty_cache()

    def ease(self, vae: Any) -> bool:
        """Take the next rung below a decoding that ran out of memory; tell whether there was one."""
        kind = type(vae).__name__
        if vae not in self._rested:
            self._rested.add(vae)
            self._room.clear(lambda guest: guest is not self._guests[vae])
            step = "sent other networks away and freed the cache"
        elif hasattr(vae, "enable_slicing") and not vae.use_slicing:
            vae.enable_slicing()
            step = "row by row"
        elif hasattr(vae, "enable_tiling") and not vae.use_tiling:
            vae.enable_tiling()
            step = "in tiles"
        else:
            return False
        self._empty()
        self.report.stepped(f"{kind}: {step}")
        return True


def _tiles(vae: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(vae).items() if name.startswith(("use_", "tile_"))}


def _careful(residence: Residence, cls: type) -> type:
    """Make the class of an autoencoder that tries again with less when it runs out of memory."""

    def retried(name: str) -> Callable[..., Any]:
        method = getattr(cls, name)

        @functools.wraps(method)
        def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
            while True:
                try:
                    return method(self, *args, **kwargs)
                except RuntimeError as error:
                    if not out_of_memory(error):
                        raise
                    # What the failed attempt held must go before there is room.
                    error.__traceback__ = None
                    if not residence.ease(self):
                        raise

        return run

    return hooks.subclass(cls, {name: retried(name) for name in ("encode", "decode")})
