"""The torch modes of one call, kept apart from those of its neighbours.

Grad mode, inference mode and autocast belong to the operating-system thread. Calls that take turns on one thread
would therefore run under each other's `torch.no_grad()` or `torch.autocast(...)`. `Modes` is a photograph of these
settings, and `Modes.entered()` puts them in force for a while. Inference mode can only be changed by entering a
guard, which is why it is treated apart.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@functools.cache
def _devices() -> tuple[str, ...]:
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return ("cpu",) if accelerator is None else ("cpu", accelerator.type)


@dataclass(frozen=True)
class Modes:
    """Grad mode, inference mode and autocast (device, enabled, dtype) as in force on this thread."""

    grad: bool
    inference: bool
    autocast: tuple[tuple[str, bool, torch.dtype], ...]

    @classmethod
    def current(cls) -> Modes:
        """Photograph the modes now in force."""
        return cls(
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            tuple((d, torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in _devices()),
        )

    def enter(self) -> torch.inference_mode | None:
        """Put these modes in force; return the inference guard that had to be entered for it, if any."""
        guard = None
        if torch.is_inference_mode_enabled() != self.inference:
            guard = torch.inference_mode(self.inference)
            guard.__enter__()
        torch.set_grad_enabled(self.grad)
        for device, enabled, dtype in self.autocast:
            torch.set_autocast_enabled(device, enabled)
            torch.set_autocast_dtype(device, dtype)
        return guard

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Run the body under these modes; afterwards those from before are back in force."""
        before = Modes.current()
        guard = None if before == self else self.enter()
        try:
            yield
        finally:
            if guard is not None:
                guard.__exit__(None, None, None)
            if before != self:
                before.enter()
