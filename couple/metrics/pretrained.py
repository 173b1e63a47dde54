"""Published networks that judge pictures: loaded through their own library, or missed in one clear sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def from_hub(kind: Any, repo: str, *, licence: str) -> Any:
    """Return `kind.from_pretrained(repo)`.

    Args:
        kind: a class of transformers, or any other that loads from the model hub.
        repo: hub id, or a folder on this machine.
        licence: of the weights, as their card names it.

    Raises:
        FileNotFoundError: it is not here and cannot be fetched; the message has the command that fetches it.
    """
    try:
        return kind.from_pretrained(repo)
    except OSError as error:
        raise FileNotFoundError(
            f"the {kind.__name__} of {repo} (licence: {licence}) is not on this machine and could not be fetched; "
            f"run: hf download {repo}"
        ) from error


def from_url(url: str, *, licence: str, digest: str | None = None) -> Path:
    """Return where the file behind `url` is on this machine, among those of torch.hub, fetching it if it is not there.

    Args:
        url: of a file of weights.
        licence: of the weights.
        digest: the first digits of its SHA-256, checked when it is fetched.

    Raises:
        FileNotFoundError: it is not here and cannot be fetched; the message has the command that fetches it.
    """
    path = Path(torch.hub.get_dir(), "checkpoints", Path(url).name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=False)
        except OSError as error:
            raise FileNotFoundError(
                f"the weights {url} (licence: {licence}) are not on this machine and could not be fetched; "
                f"run: curl --create-dirs -o {path} {url}"
            ) from error
    return path
