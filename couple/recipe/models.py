"""The models of a recipe: bundled ones, folders inside the recipe's own, and repositories of the hub.

Weights are safetensors, classes are those of diffusers and transformers, and nothing of a model's own is run.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from couple import bundled
from couple.recipe.paths import within
from couple.recipe.reading import Recipe
from couple.recipe.schema import Model

#: Bytes of a model_index.json.
_MAX_INDEX = 2**16
_DEFAULTS = {
    "text_to_image": (bundled.text_to_image, bundled.TEXT_TO_IMAGE_DEFAULTS),
    "text_to_video": (bundled.text_to_video, bundled.TEXT_TO_VIDEO_DEFAULTS),
    "instruct": (bundled.instruct, bundled.INSTRUCT_DEFAULTS),
    "restyle": (bundled.restyle, bundled.RESTYLE_DEFAULTS),
}


def defaults(model: Model) -> dict[str, Any]:
    """Arguments of a call that suit a bundled model better than its pipeline's own."""
    return dict(_DEFAULTS[model.bundled][1]) if model.bundled else {}


def folder(recipe: Recipe, name: str, *, fetch: bool) -> Path | None:
    """The folder of a model of the recipe.

    Args:
        recipe: which has a model of that name.
        name: the model.
        fetch: whether what the hub has, and this machine has not, is fetched.

    Returns:
        The folder; None if it would have to be fetched.

    Raises:
        ValueError: it is not there, or cannot be fetched.
    """
    model = recipe.contents.models[name]
    if model.bundled:
        return _DEFAULTS[model.bundled][0]()
    if model.folder is not None:
        return within(recipe.home, model.folder, "folder", recipe.where("models", name, "folder"))
    from diffusers import DiffusionPipeline
    from huggingface_hub import snapshot_download

    hub: Any = model.hub
    try:
        if not fetch:
            return Path(snapshot_download(hub, revision=model.revision, local_files_only=True))
        return Path(DiffusionPipeline.download(hub, revision=model.revision, use_safetensors=True))
    except Exception as error:
        # The hub and the network fail in as many ways as there are libraries between them and here.
        if not fetch:
            return None
        where = recipe.where("models", name, "hub")
        if _offline(error):
            raise ValueError(
                f"{where}: {hub!r} is not in the cache of this machine, and offline it cannot be fetched; "
                f"hf download {hub} where there is a network."
            ) from error
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(f"{where}: {hub!r} could not be fetched ({reason:.300}); check the name.") from error


def pipeline_class(recipe: Recipe, name: str, home: Path) -> Any:
    """The class that the folder of a model names, after a look at all that it would have loaded.

    Raises:
        ValueError: it is no pipeline of diffusers, or has a part that neither diffusers nor transformers has.
    """
    import diffusers
    from diffusers import pipelines

    where = recipe.where("models", name)
    index = home / "model_index.json"
    if not index.is_file() or index.stat().st_size > _MAX_INDEX:
        raise ValueError(f"{where}: {home} has no usable model_index.json; give a folder of save_pretrained.")
    try:
        listed = json.loads(index.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{where}: {index} is not JSON; save or download the model again.") from None
    kind = listed.get("_class_name") if isinstance(listed, dict) else None
    found = getattr(diffusers, kind, None) if isinstance(kind, str) else None
    if not (inspect.isclass(found) and issubclass(found, diffusers.DiffusionPipeline)):
        raise ValueError(f"{where}: {index} names {kind!r:.60}, which is no pipeline of diffusers.")
    for part, value in listed.items():
        # diffusers would import a module of any name that stands here.
        library = value[0] if isinstance(value, list) and value else None
        if not (library in (None, "diffusers", "transformers") or hasattr(pipelines, str(library))):
            raise ValueError(
                f"{where}: {part!r:.60} of {index} is of {library!r:.60}; a recipe takes parts of diffusers and "
                "transformers only."
            )
    return found


def used(recipe: Recipe) -> list[str]:
    """The models that a trajectory names, each once."""
    return list(dict.fromkeys(one.model for one in recipe.contents.trajectories.values()))


def unloaded(cls: Any, home: Path, networks: Mapping[str, nn.Module]) -> Any:
    """The pipeline of a folder with networks that have no weights.

    Args:
        cls: its class.
        home: the folder.
        networks: from `couple.memory.estimates.skeletons`.

    Raises:
        Exception: what the pipeline raises.
    """
    index = cls.load_config(home)
    others = {
        part: None
        for part, value in index.items()
        if isinstance(value, list) and value[0] not in (None, "diffusers", "transformers")
    }
    return cls.from_pretrained(home, **others, **networks, local_files_only=True, use_safetensors=True)


def load(recipe: Recipe, name: str, *, dtype: torch.dtype, device: torch.device) -> Any:
    """Load a model of the recipe; errors as for `folder` and `pipeline_class`, and of `couple.backends.loading`."""
    from couple.backends.loading import load_as

    home = folder(recipe, name, fetch=True)
    assert home is not None
    cls = pipeline_class(recipe, name, home)
    try:
        return load_as(cls, home, dtype=dtype).to(device)
    except ValueError as error:
        raise ValueError(f"{recipe.where('models', name)}: {error}") from error


def _offline(error: BaseException) -> bool:
    """Whether what diffusers raised says that the hub did not answer: an `OSError` without a number."""
    from huggingface_hub.errors import HfHubHTTPError

    causes: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in causes:
        causes.append(one)
        one = one.__cause__ or one.__context__
    answered = any(isinstance(cause, HfHubHTTPError) for cause in causes)
    return isinstance(error, OSError) and error.errno is None and not answered
