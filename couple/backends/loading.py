"""Text-to-image pipelines from a folder or a model hub, safetensors only, nothing of theirs executed.

A folder is looked through before anything slow, so that a missing file is named at once instead of in the
middle of a load.
"""

import json
from pathlib import Path
from typing import Any

import torch


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
    folder = Path(model).expanduser()
    if folder.is_dir():
        check_folder(folder)
    elif folder.exists():
        raise ValueError(f"model {str(model)!r} is a file; give the folder that holds model_index.json.")
    elif str(model).startswith((".", "/", "~")) or str(model).count("/") != 1:
        raise ValueError(f"model {str(model)!r} is no folder here and no hub id such as owner/name; check the path.")

    from diffusers import AutoPipelineForText2Image

    source = folder if folder.is_dir() else model
    try:
        pipeline = AutoPipelineForText2Image.from_pretrained(source, dtype=dtype, use_safetensors=True)
    except Exception as error:
        # A foreign folder fails in as many ways as there are libraries in it; the user needs one.
        reason = " ".join(str(error).split()).rstrip(".")
        raise ValueError(
            f"model {str(model)!r} could not be loaded ({reason}); check its name and your connection, or save it "
            "again."
        ) from error
    return pipeline.to(device)


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
