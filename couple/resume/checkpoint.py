"""A checkpoint file: where a run that was stopped left off, whole or not at all.

It is one safetensors file: tensors, and JSON in its metadata. It holds no code and no weights. It is written beside its
place and renamed into it, so that a run that is killed while writing leaves the checkpoint before.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from couple import atomic
from couple.resume import fingerprint, states

#: What the metadata of a checkpoint is called, and the form of what is in it.
_KEY, _FORM = "couple checkpoint", 1


class Checkpoint:
    """Where `sample` keeps what it needs to go on after it was stopped.

    Give the same call again and it goes on from there, with the same numbers as if nothing had happened: it makes the
    pipelines' calls again from their start, without evaluating their networks, until it is where it stopped. That takes
    about as long as two steps, and text and image encoders run again. While a checkpoint is asked for, Ctrl-C and
    SIGTERM are acted on when everyone has made a prediction, after it was written.

    Args:
        path: the file, e.g. "out/run.checkpoint". Its folder is made if there is none.
        every: how many meetings lie between two writings, 1 or more. Each writes about three latents a trajectory and
            what the scheduler remembers, and makes a GPU wait.
        keep: whether the file stays when the run has ended well; otherwise it is removed. Remove a kept one with
            `remove`, once results are safe.

    Raises:
        TypeError, ValueError: an argument is not what it must be.

    Example:
        >>> Checkpoint("out/run.checkpoint", every=5)
        Checkpoint('out/run.checkpoint', every=5, keep=False)
    """

    def __init__(self, path: str | os.PathLike[str], *, every: int = 1, keep: bool = False) -> None:
        """Check the arguments; no file is touched."""
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ValueError(f"`every` must be a whole number of meetings, 1 or more; got {every!r}.")
        self.path = Path(path)
        self.every = every
        self.keep = keep
        self._failed = False

    def __repr__(self) -> str:
        """Write how it is made."""
        return f"Checkpoint({str(self.path)!r}, every={self.every}, keep={self.keep})"

    def remove(self) -> None:
        """Remove the file, if there is one."""
        self.path.unlink(missing_ok=True)

    def read(self, run: Mapping[str, str]) -> Any:
        """Return what was kept of a run, None if there is no file.

        Args:
            run: the run that is to go on, as `fingerprint.described`.

        Raises:
            ValueError: the file is damaged, is no checkpoint, or is that of another run.
            OSError: the file cannot be read.
        """
        if not self.path.exists():
            return None
        with self._whole():
            then, tree, tensors = _opened(self.path)
        # Before tensors go to their devices, which another run may not have.
        if differing := fingerprint.difference(then, run):
            raise ValueError(
                f"{self.path} is the checkpoint of another run; it differs in {differing}. Make the call as it was, or "
                "remove the file to start from the beginning."
            )
        with self._whole():
            return states.unpacked(tree, tensors)

    def prepare(self) -> None:
        """Make the folder, and find out whether a file can be written in it.

        Raises:
            OSError: it cannot, with what to do.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            probe = self.path.with_name(f".{self.path.name}.probe")
            atomic.write(probe, b"")
            probe.unlink()
        except OSError as error:
            raise type(error)(
                error.errno,
                f"no checkpoint can be written to {self.path} ({error.strerror}). Give a path in a folder that can be "
                "written to, or sample without checkpoint=",
            ) from None

    def write(self, run: Mapping[str, str], kept: Any) -> bool:
        """Write what is to be kept; tell whether it could be done.

        A run goes on without its checkpoint: a full disk gives one warning, and the file written before stays.

        Args:
            run: the run, as `fingerprint.described`.
            kept: as `states.copied` would return it.
        """
        tree, tensors = states.packed(kept)
        text = json.dumps({"form": _FORM, "run": dict(run), "kept": tree})
        seal = states.digest([text, tensors])
        try:
            atomic.write(self.path, save(tensors, {_KEY: text, "sha256": seal}))
        except OSError as error:
            if not self._failed:
                warnings.warn(
                    f"the checkpoint {self.path} could not be written ({error.strerror}): sampling goes on without it, "
                    "and tries again. Make room on the disk, or see to it that the folder is there and can be written "
                    "to.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._failed = True
            return False
        self._failed = False
        return True

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Say in one sentence what is wrong with a file, of which there are many ways."""
        try:
            yield
        except (
            SafetensorError,
            ValueError,
            KeyError,
            TypeError,
            RuntimeError,
            AttributeError,
            RecursionError,
        ) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{self.path} is not a whole checkpoint of couple ({reason:.80}). Remove it to start from the "
                "beginning, or give another path."
            ) from None


def _opened(path: Path) -> tuple[dict[str, str], Any, dict[str, Tensor]]:
    """Read a file; a broken one raises one of many errors."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if _KEY not in metadata:
            raise ValueError("it was not written by couple")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    if states.digest([metadata[_KEY], tensors]) != metadata.get("sha256"):
        raise ValueError("its contents have changed")
    content = json.loads(metadata[_KEY])
    if content["form"] != _FORM:
        raise ValueError(f"its form is {content['form']!r:.20}, and this version of couple reads {_FORM}")
    return {str(what): str(value) for what, value in content["run"].items()}, content["kept"], tensors
