"""Ctrl-C and SIGTERM, taken note of until there is a good moment to stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, NoReturn, Self


class Interrupts:
    """While entered, the first Ctrl-C or SIGTERM is only noted in `pending`; a second one acts at once.

    Handlers belong to the main thread; anywhere else nothing is noted, and signals do what they did.

    Attributes:
        pending: the signal that came, None before.
    """

    def __init__(self) -> None:
        """Change no handler yet."""
        self.pending: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        """Take over the handlers that Python or the program has set."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        """Give the handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pending is not None:
            raise KeyboardInterrupt
        self.pending = signal.Signals(number)

    def act(self, message: str) -> NoReturn:
        """Stop as the signal would have made the program stop, once its moment has come, with a note that says where.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after SIGTERM, with the exit code 143 by which a shell knows it.
        """
        handler = self._before.get(self.pending) if self.pending else None
        try:
            if callable(handler) and handler is not signal.default_int_handler:
                handler(self.pending, None)  # the program's own, which may raise something else
            if self.pending is signal.SIGTERM:
                raise SystemExit(128 + signal.SIGTERM)
            raise KeyboardInterrupt(message)
        except BaseException as stop:
            stop.add_note(message)
            raise
