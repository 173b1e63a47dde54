"""Whole networks that come to the device when they are called and leave when they are done or in the way.

Text encoders and autoencoders are needed for a moment: they come when called and leave when denoising goes on.
Denoisers that do not fit on the device together take turns. A guest that never changes needs no way back: what it
is on the CPU is kept, and leaving only drops the copy on the device. Networks that are on the device already count as
guests from the start, and leave like the others where there is too little room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module
from accelerate.utils import send_to_device
from torch import Tensor, nn

from couple.memory.streaming import size


class Room:
    """The device, and who is on it.

    Args:
        device: where guests are brought to.
        space: how many bytes there are for them and what they compute; None for no limit.
        arrived: called with the number of bytes brought.
    """

    def __init__(self, device: torch.device, space: int | None, arrived: Callable[[int], None]) -> None:
        """Nobody is here."""
        self.device = device
        self.space = space
        self._arrived = arrived
        self._here: list[Guest] = []

    def settle_in(self, guest: Guest) -> None:
        """Count a guest who is here already; one that is here in part leaves, and will come as a whole."""
        if guest.lives_here:
            self._here.append(guest)
        elif guest.is_split:
            guest.leave()

    def bring(self, guest: Guest) -> None:
        """Bring a guest; who is done leaves, and who was used longest ago where there is too little room."""
        if guest.denoises:
            self.clear(lambda other: not other.denoises and not other.lives_here)
        if guest not in self._here and self.space is not None:
            while self._here and size_of([*self._here, guest]) + guest.working > self.space:
                self._here.pop(0).leave()
        if guest in self._here:
            self._here.remove(guest)
        elif guest.come():
            self._arrived(guest.size)
        self._here.append(guest)

    def clear(self, who: Callable[[Guest], bool]) -> None:
        """Send guests away."""
        for guest in [guest for guest in self._here if who(guest)]:
            self._here.remove(guest)
            guest.leave()

    def holds(self, guest: Guest) -> bool:
        """Tell whether a guest is here."""
        return guest in self._here


class Guest(ModelHook):
    """Some weights that come and leave together.

    Args:
        room: where to.
        tensors: parameters and buffers.
        working: how many bytes it needs to work with, beside its weights.
        denoises: whether it runs at every step.
    """

    def __init__(self, room: Room, tensors: Iterable[Tensor], working: int, denoises: bool) -> None:
        """Remember where the weights are; nothing moves."""
        self.room = room
        self.working = working
        self.denoises = denoises
        self.execution_device = room.device  # read by diffusers pipelines
        self._tensors = [(tensor, tensor.device) for tensor in tensors]
        self._away = {id(tensor): tensor.data for tensor, home in self._tensors if home.type == "cpu"}
        self.size = size(tensor for tensor, _ in self._tensors)
        here = [room.device.type != "cpu" and home == room.device for _, home in self._tensors]
        self.lives_here = bool(here) and all(here)
        self.is_split = any(here) and not all(here)

    def join(self, module: nn.Module) -> Callable[[], None]:
        """Come whenever `module` is called; return what ends it."""
        plain = "forward" not in vars(module)
        add_hook_to_module(module, self)

        def end() -> None:
            remove_hook_from_module(module)
            if plain:
                vars(module).pop("forward", None)

        return end

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Come, and bring the arguments along."""
        self.room.bring(self)
        return send_to_device(args, self.room.device), send_to_device(kwargs, self.room.device)

    def come(self) -> bool:
        """Bring the weights; tell whether any had to be."""
        moved = False
        for tensor, home in self._tensors:
            if home.type == "cpu" or tensor.device != self.room.device:
                tensor.data = tensor.data.to(self.room.device, non_blocking=True)
                moved = True
        return moved

    def leave(self) -> None:
        """Let the weights be what they are on the CPU."""
        for tensor, _ in self._tensors:
            away = self._away.get(id(tensor))
            away = tensor.data.cpu() if away is None else away
            if self.denoises and self.room.device.type == "cuda" and not away.is_pinned():
                away = away.pin_memory()  # it will come again, at every step
            self._away[id(tensor)] = tensor.data = away

    def go_home(self) -> None:
        """Put the weights back where they were."""
        for tensor, home in self._tensors:
            if tensor.device != home:
                tensor.data = self._away[id(tensor)] if home.type == "cpu" else tensor.data.to(home)


def size_of(guests: Iterable[Guest]) -> int:
    """Return the bytes of the weights of some guests."""
    return sum(guest.size for guest in guests)
