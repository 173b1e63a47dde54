"""What ran: the versions, the machine, and every model by the hash of its weights."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from couple import Edge, Result, __version__
from couple.cli.journal import Journal
from couple.cli.record import Batch, Component, Machine, Model, Record, Scheduler

_LIBRARIES = ("torch", "diffusers", "transformers", "numpy", "pillow")
# Where the hub's cache keeps a file: snapshots/COMMIT/... is a link to blobs/HASH, SHA-256 for large files.
_SNAPSHOT = re.compile(r"[/\\]snapshots[/\\]([0-9a-f]{40})(?:[/\\]|$)")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def written(
    command: Literal["image", "video", "edit", "run"],
    request: Mapping[str, Any],
    *,
    models: Mapping[str, Model],
    edges: Iterable[Edge],
    sampled: Sequence[Result],
    max_batch: int | None,
    notes: Journal,
    inputs: Iterable[Path] = (),
    results: Mapping[str, Any],
) -> Record:
    """Write a run down.

    Args:
        command: which command ran.
        request: what was asked, enough to do it again.
        models: the pipelines that ran, by role, see `model`.
        edges: of all samplings.
        sampled: what `couple.sample` returned, in the order of the calls.
        max_batch: as it was asked.
        notes: times and warnings.
        inputs: files that were read beside the models.
        results: what was measured, as far as JSON can hold it.
    """
    devices = {one.device for one in models.values()}
    return Record(
        command=command,
        arguments=["couple", *sys.argv[1:]],
        request=_plain(request),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        machine=machine(min(devices)),
        models=dict(models),
        inputs={str(path): _file(path) for path in inputs},
        edges=[repr(edge) for edge in edges],
        batch=Batch(
            max_batch=max_batch,
            forwards=sum(result.forwards for result in sampled),
            steps=[steps for result in sampled for steps in result.steps.values()],
            processes=torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1,
        ),
        memory=[asdict(result.placement) for result in sampled if result.placement is not None] or None,
        seconds=dict(notes.seconds),
        warnings=list(notes.warnings),
        results=_plain(results),
    )


def versions() -> dict[str, str]:
    """Of couple, Python and the libraries that decide about numbers."""
    libraries = {library: version(library) for library in _LIBRARIES}
    return {"couple": __version__, "python": platform.python_version(), **libraries}


def machine(device: str | torch.device) -> Machine:
    """This one, with its device of that name."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return Machine(system=f"{platform.system()} {platform.machine()}", device=name, threads=torch.get_num_threads())


def model(name: str, pipeline: Any, *, call: Mapping[str, Any], seeds: Sequence[int]) -> Model:
    """Write a pipeline down, weights and all.

    Args:
        name: what was asked for.
        pipeline: as it runs.
        call: what its calls are given; what JSON cannot hold is left out.
        seeds: of its trajectories.
    """
    scheduler = getattr(pipeline, "scheduler", None)
    return Model(
        name=name,
        pipeline=type(pipeline).__name__,
        dtype=str(pipeline.dtype).removeprefix("torch."),
        device=str(pipeline.device),
        attention=_attention(pipeline),
        scheduler=None
        if scheduler is None
        else Scheduler(kind=type(scheduler).__name__, config=json.loads(scheduler.to_json_string())),
        components={
            part: _component(module) for part, module in pipeline.components.items() if isinstance(module, nn.Module)
        },
        call={key: value for key, value in call.items() if isinstance(value, bool | int | float | str | None)},
        seeds=list(seeds),
    )


def _component(module: nn.Module) -> Component:
    config = getattr(module, "config", None)
    # diffusers keeps where a part came from in its config, transformers beside it.
    home = Path(str(getattr(config, "_name_or_path", None) or getattr(module, "name_or_path", None) or ""))
    files = sorted(home.glob("*.safetensors")) if home.parts and home.is_dir() else []
    found = _SNAPSHOT.search(str(home))
    commit = found[1] if found else getattr(config, "_commit_hash", None)
    return Component(
        kind=type(module).__name__,
        revision=commit,
        files={file.name: _file(file) for file in files},
        tensors=None if files else _tensors(module),
    )


def _file(path: Path) -> str:
    """SHA-256 of a file; the hub's cache names large files by it."""
    resolved = path.expanduser().resolve()
    if resolved.parent.name == "blobs" and _SHA256.fullmatch(resolved.name):
        return resolved.name
    with resolved.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tensors(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes: for weights that were put together from several places."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _attention(pipeline: Any) -> list[str]:
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    backend, _ = _AttentionBackendRegistry.get_active_backend()
    processors = {
        type(layer.processor).__name__
        for module in pipeline.components.values()
        if isinstance(module, nn.Module)
        for layer in module.modules()
        if hasattr(layer, "processor")
    }
    return [str(getattr(backend, "value", backend)), *sorted(processors)]


def _plain(value: Any) -> Any:
    """As JSON holds it: tuples as lists, mappings as objects."""
    return json.loads(json.dumps(value, default=dict))
