"""Text-to-image and text-to-video pipelines from a folder or a model hub, safetensors only, nothing of theirs executed.

A folder is looked through before anything slow, so that a missing file is named at once instead of in the
middle of a load.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from couple.backends.video import films_prompts


def load_text_to_image(model: str | Path, *, dtype: torch.dtype, device: torch.device) -> Any:
    """Load a diffusers text-to-image pipeline.

    Args:
        model: A folder written by `save_pretrained`, or the id of a hub repository, "owner/name".
        dtype: Floating-point type of the weights.
        device: Where the pipeline runs.

    Returns:
        The pipeline, on `device`.

    Raises:
        ValueError: If the folder lacks a file, or diffusers cannot make a text-to-image pipeline of the
        model.
    """
    source = _source(model)
    from diffusers import AutoPipelineForText2Image

    with _told_in_a_sentence(model):
        pipeline = AutoPipelineForText2Image.from_pretrained(source, dtype=dtype, use_safetensors=True)
    return pipeline.to(device)


def load_text_to_video(model: str | Path, *, dtype: torch.dtype, device: torch.device) -> Any:
    """Load a diffusers text-to-video pipeline, of the class that the model names.

    Args:
        model: A folder written by `save_pretrained`, or the id of a hub repository, "owner/name".
        dtype: Floating-point type of the weights.
        device: Where the pipeline runs.

    Returns:
        The pipeline, on `device`.

    Raises:
        ValueError: If the folder lacks a file, the model's pipeline does not make videos from prompts alone
        (told before its weights are loaded), or diffusers cannot make it.
    """
    source = _source(model)
    import diffusers

    with _told_in_a_sentence(model):
        index: Any = diffusers.DiffusionPipeline.load_config(source)
    name = index["_class_name"]
    if not (isinstance(name, str) and hasattr(diffusers, name) and films_prompts(getattr(diffusers, name))):
        raise ValueError(
            f"model {str(model)!r} is a {name}, which does not make videos from prompts alone; give a text-to-video "
            "model, such as one for WanPipeline."
        )
    with _told_in_a_sentence(model):
        pipeline = diffusers.DiffusionPipeline.from_pretrained(source, dtype=dtype, use_safetensors=True)
    return pipeline.to(device)


def load_as(cls: Any, model: str | Path, *, dtype: torch.dtype, also: Sequence[str] = (), **options: Any) -> Any:
    """Load a pipeline of class `cls`.

    Args:
        cls: The class that the model names.
        model: A folder written by `save_pretrained`, or the id of a hub repository, "owner/name".
        dtype: Floating-point type of the weights.
        also: Names of other classes whose parts are those of `cls`.
        **options: Of its `from_pretrained`.

    Raises:
        ValueError: If the folder lacks a file, the model is of another class, or it cannot be loaded.
    """
    source = _source(model)
    with _told_in_a_sentence(model):
        name = cls.load_config(source)["_class_name"]
    if name not in (cls.__name__, *also):
        raise ValueError(f"model {str(model)!r} is a {name}; give a {cls.__name__}.")
    with _told_in_a_sentence(model):
        return cls.from_pretrained(source, dtype=dtype, use_safetensors=True, **options)


def _source(model: str | Path) -> str | Path:
    """The folder, looked through, or the hub id."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        check_folder(folder)
        return folder
    if folder.exists():
        raise ValueError(f"model {str(model)!r} is a file; give the folder that holds model_index.json.")
    if str(model).startswith((".", "/", "~")) or str(model).count("/") != 1:
        raise ValueError(f"model {str(model)!r} is no folder here and no hub id such as owner/name; check the path.")
    return model


@contextmanager
def _told_in_a_sentence(model: str | Path) -> Iterator[None]:
    """A foreign folder fails in as many ways as there are libraries in it; the user needs one."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"model {str(model)!r} could not be loaded ({reason}); check its name and your connection, or save it "
            "again."
        ) from error


def check_folder(folder: Path) -> None:
    """Raise ValueError, naming the file, unless `folder` holds every component its model_index.json lists."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(
            f"model folder {folder} has no model_index.json; give a folder written by pipeline.save_pretrained(folder)."
        )
    try:
        listed = json.loads(index.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{index} is not JSON ({error}); save or download the model again.") from error
    for name, value in listed.items():
        if isinstance(value, list) and len(value) == 2 and all(value):
            _check_component(folder / name, value[1])


def _check_component(part: Path, kind: str) -> None:
    again = "save or download the model again."
    has_weights = kind.endswith(("Model", "ModelWithProjection")) or kind.startswith("Autoencoder")
    config = "scheduler_config.json" if kind.endswith("Scheduler") else "config.json" if has_weights else ""
    if not part.is_dir() or not (config or any(part.iterdir())):
        raise ValueError(f"model folder {part.parent} lacks {part.name}/ for its {kind}; {again}")
    if not (part / config).exists():
        raise ValueError(f"model folder {part.parent} lacks {part.name}/{config}; {again}")
    if not (part / "config.json").is_file():
        return
    for index in part.glob("*.safetensors.index.json"):
        for shard in sorted(set(json.loads(index.read_text())["weight_map"].values())):
            if not (part / shard).is_file():
                raise ValueError(f"model folder {part.parent} lacks {part.name}/{shard}; {again}")
    if any(part.glob("*.safetensors")):
        return
    if any(part.glob("*.bin")):
        raise ValueError(
            f"{part} has pickled weights (.bin) only, which can run code when opened; if you trust them, "
            "convert them once with pipeline.save_pretrained(folder, safe_serialization=True)."
        )
    raise ValueError(f"model folder {part.parent} lacks the weights of {part.name} (*.safetensors); {again}")
