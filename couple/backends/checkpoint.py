"""Published checkpoints: found, opened without running anything of theirs, and loaded strictly.

Every conversion in `couple.backends` ends in `load_strictly`, so that a file of another version, a renamed key or a
wrong shape is named instead of leaving a layer at random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

_SHOWN = 5


@dataclass(frozen=True)
class Published:
    """One file of weights on the model hub.

    Attributes:
        repo: hub id of the repository, "owner/name".
        file: path inside it.
        licence: of the weights, as their card names it.
    """

    repo: str
    file: str
    licence: str

    def path(self) -> Path:
        """Return where the file is on this machine, downloading it if it is not there.

        Raises:
            FileNotFoundError: it is not here and cannot be fetched; the message has the command that fetches it.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            return Path(hf_hub_download(self.repo, self.file))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise FileNotFoundError(
                f"the weights {self.file} of {self.repo} (licence: {self.licence}) are not on this machine and could "
                f"not be fetched; run: hf download {self.repo} {self.file}"
            ) from error


@dataclass(frozen=True)
class Repository:
    """A model on the hub that is a folder of files.

    Attributes:
        repo: hub id, "owner/name".
        licence: of the weights, as their card names it.
        files: what `hf download` is told beside the id, to leave out what is not needed.
    """

    repo: str
    licence: str
    files: str = ""

    def load(self, loader: Callable[..., Any], **options: Any) -> Any:
        """Return `loader(repo, **options)`, for `from_pretrained` of any class.

        Raises:
            FileNotFoundError: files are not here and cannot be fetched; the message has the command that fetches them.
        """
        from huggingface_hub.errors import HfHubHTTPError

        try:
            return loader(self.repo, **options)
        except (HfHubHTTPError, OSError) as error:
            command = f"hf download {self.repo} {self.files}".rstrip()
            raise FileNotFoundError(
                f"the weights of {self.repo} (licence: {self.licence}) are not on this machine and could not be "
                f"fetched; run: {command}"
            ) from error


def read_checkpoint(path: str | Path, *, prefix: str = "") -> dict[str, Tensor]:
    """Read the tensors of a checkpoint.

    Args:
        path: a .safetensors file, or a torch file (opened with `weights_only`, which runs no code). A torch file may
            hold its tensors under "state_dict".
        prefix: only keys that begin with it are returned, without it.

    Returns:
        Tensors by key, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or no key begins with `prefix`.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}.")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
            state = state.get("state_dict", state)
    except Exception as error:
        # Broken files fail in as many ways as there are readers.
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{path} cannot be read as a checkpoint ({reason:.200}); download it again.") from error
    found = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if not found:
        raise ValueError(f"{path} has no key that begins with {prefix!r}; its keys are {_some(state)}.")
    return found


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], *, source: str | Path) -> None:
    """Load `state` into `module` so that every tensor of either finds its counterpart.

    Args:
        module: on any device; one on the meta device gets the tensors of `state` themselves.
        state: tensors by key of `module.state_dict()`.
        source: what messages call the state, e.g. the file it came from.

    Raises:
        ValueError: keys are missing, unexpected or of another shape; the message names them.
    """
    _check_fit(module, state, source)
    on_meta = any(value.is_meta for value in module.state_dict().values())
    module.load_state_dict(state, strict=True, assign=on_meta)


def add_strictly(module: nn.Module, offset: Mapping[str, Tensor], *, source: str | Path) -> None:
    """Add `offset` to the tensors of `module`, every one of them, in place and in the module's own precision.

    Args:
        module: on any device.
        offset: what to add, by key of `module.state_dict()`.
        source: what messages call the offset, e.g. the file it came from.

    Raises:
        ValueError: keys are missing, unexpected or of another shape; the message names them, and nothing was added.
    """
    _check_fit(module, offset, source)
    with torch.no_grad():
        for key, value in module.state_dict().items():
            value.add_(offset[key].to(value))


def _check_fit(module: nn.Module, state: Mapping[str, Tensor], source: str | Path) -> None:
    wanted = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    got = {key: tuple(value.shape) for key, value in state.items()}
    faults = []
    if missing := [key for key in wanted if key not in got]:
        faults.append(f"{len(missing)} missing ({_some(missing)})")
    if unexpected := [key for key in got if key not in wanted]:
        faults.append(f"{len(unexpected)} unexpected ({_some(unexpected)})")
    if unequal := [key for key in wanted if key in got and got[key] != wanted[key]]:
        faults.append(
            f"{len(unequal)} of another shape ({_some(f'{key} {got[key]}, expected {wanted[key]}' for key in unequal)})"
        )
    if faults:
        raise ValueError(f"{source} does not fit {type(module).__name__}: {'; '.join(faults)}.")


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
