"""What a run has to say about itself: how long each stage took, and what it was warned of."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from couple.cli.stages import Stages


class Journal(Stages):
    """The stages of a run, shown and timed, and its warnings.

    Attributes:
        warnings: each once, as it was told.
    """

    def __init__(self, show: bool = True) -> None:
        """Be in no stage, warned of nothing."""
        super().__init__(show)
        self.warnings: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Be in a stage."""
        self.begin(name)
        try:
            yield
        finally:
            self.end()


@contextmanager
def journal() -> Iterator[Journal]:
    """Yield a journal that notes every warning of the block, told in a sentence; its stages are for terminals."""
    with Journal(show=sys.stderr.isatty()) as notes, warnings.catch_warnings():

        def noted(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            sentence = f"{category.__name__}: {' '.join(str(message).split())}"[:2000]
            if sentence not in notes.warnings:
                notes.warnings.append(sentence)
            print(f"couple: {' '.join(str(message).split())}", file=sys.stderr)

        warnings.showwarning = noted
        yield notes
