"""Faster kernels for the networks of a pipeline, switched on for a while: attention backends and regional compilation.

Both are diffusers' own. Here is what they leave to the caller: which networks are meant, an error where a switch would
do nothing, and the way back. Autoencoders and text encoders run once and are left alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models import attention_dispatch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0, XFormersAttnProcessor
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import is_xformers_available
from torch import nn

from couple import autoencoders, hooks
from couple.trajectory import Trajectory

#: Processors of older networks (UNets, ControlNets, PixArt), on which `set_attention_backend` has no effect.
EXCHANGEABLE = (AttnProcessor, AttnProcessor2_0, XFormersAttnProcessor)
#: What their layers can be switched to.
OLDER = ("native", "xformers")
#: Backends that diffusers takes anywhere, and that fail at the first attention without a GPU.
NEEDS_CUDA = frozenset({"_native_cudnn", "_native_efficient", "xformers"})


@contextmanager
def attention_backend(name: str, *pipelines: Any) -> Iterator[None]:
    """Let the networks of pipelines attend with one backend, and give every layer its own back at the end.

    Args:
        name: one of `available()`.
        *pipelines: whose networks are meant.

    Raises:
        ValueError: `name` is no backend or cannot run here, or no layer listens to it.
        ImportError: xformers is asked for and not installed.

    Warns:
        RuntimeWarning: some layers do not listen and stay as they are.

    Example:
        with attention_backend("_native_flash", pipe):
            couple.sample([a, b], edges)
    """
    _check(name)
    networks = _denoisers(pipelines)
    older = _listeners(networks, name)
    processors = hooks.Processors(networks)
    before = processors.now()
    backends = [(p, p._attention_backend) for p in before if hasattr(p, "_attention_backend")]
    try:
        # diffusers also makes it the backend of everything that has not chosen one; that is taken back.
        with attention_dispatch.attention_backend(name):
            for network in networks:
                if isinstance(network, ModelMixin):
                    network.set_attention_backend(name)
        for layer in older:
            if name == "native":
                layer.set_processor(AttnProcessor2_0())
            else:
                layer.set_use_memory_efficient_attention_xformers(True)
        yield
    finally:
        processors.put(before)
        for processor, backend in backends:
            processor._attention_backend = backend


def available() -> list[str]:
    """Names of the attention backends that can run on this machine, as diffusers spells them.

    Those that fetch a kernel from a hub (`*_hub`) are left out: it is code that someone else may change.
    """
    return [backend.value for backend in AttentionBackendName if _runs(backend)]


@contextmanager
def compiled(*pipelines: Any, **options: Any) -> Iterator[None]:
    """Compile the repeated blocks of the networks of pipelines, and run them as they were at the end.

    One graph is made for each class of blocks and each batch size; sample with
    `max_batch=constant_batch(trajectories, max_batch)`, so that there is one batch size.

    Args:
        *pipelines: whose networks are meant. What is compiled already stays so.
        **options: of `torch.compile`, e.g. `mode="max-autotune-no-cudagraphs"`.

    Raises:
        ValueError: no network names its repeated blocks.

    Warns:
        RuntimeWarning: some network does not name them and runs as it is.
    """
    networks = _denoisers(pipelines)
    able = [network for network in networks if isinstance(network, ModelMixin) and network._repeated_blocks]
    others = sorted({type(network).__name__ for network in networks if network not in able})
    if not able:
        raise ValueError(
            f"nothing can be compiled by regions: {', '.join(others) or 'the pipeline'} names no repeated blocks. "
            "Leave it out, or compile the whole network, network.compile()."
        )
    if others:
        _warn(f"{', '.join(others)} names no repeated blocks and runs uncompiled.")
    before = [(layer, layer._compiled_call_impl) for network in able for layer in network.modules()]
    try:
        for network in able:
            network.compile_repeated_blocks(**options)
        for layer, call in before:
            if call is not None:
                layer._compiled_call_impl = call
        yield
    finally:
        for layer, call in before:
            layer._compiled_call_impl = call


def constant_batch(trajectories: Sequence[Trajectory], max_batch: int | None = None) -> int | None:
    """The largest `max_batch` for `sample` with which every forward of a network serves equally many calls.

    Calls of one length that share a network wait at it together, at every step: their number is cut into equal parts.
    Calls of different lengths meet in changing numbers and are served one by one.

    Args:
        trajectories: what is sampled together.
        max_batch: what memory allows; None for any number.

    Returns:
        At most `max_batch`; None if everything merges and all batches are constant.
    """
    groups: dict[int, list[Trajectory]] = {}
    for trajectory in trajectories:
        for network in _denoisers([trajectory.pipeline]):
            groups.setdefault(id(network), []).append(trajectory)
    if any(len({_length(trajectory) for trajectory in group}) > 1 for group in groups.values()):
        return 1
    if max_batch is None:
        return None
    sizes = {len(group) for group in groups.values()}
    return next(size for size in range(max_batch, 0, -1) if all(n <= size or n % size == 0 for n in sizes))


def _denoisers(pipelines: Sequence[Any]) -> list[nn.Module]:
    found = {id(network): network for pipeline in pipelines for network in hooks.networks(pipeline)}
    return [network for network in found.values() if not autoencoders.is_autoencoder(network)]


def _length(trajectory: Trajectory) -> tuple[Any, ...]:
    """What of a call decides how many steps it takes, and of which network."""
    keys = ("num_inference_steps", "strength", "timesteps", "sigmas", "denoising_start", "denoising_end")
    return tuple(repr(trajectory.call_kwargs.get(key)) for key in keys)


def _runs(backend: AttentionBackendName) -> bool:
    if backend.value.endswith("_hub"):
        return False
    if backend.value in NEEDS_CUDA and not torch.cuda.is_available():
        return False
    try:
        attention_dispatch._check_attention_backend_requirements(backend)
    except (RuntimeError, ImportError):
        return False
    return True


def _check(name: str) -> None:
    names = available()
    if name in names:
        return
    if name == "xformers" and not is_xformers_available():
        raise ImportError("attention backend 'xformers' is not installed; write pip install 'couple[xformers]'.")
    known = name in {backend.value for backend in AttentionBackendName}
    problem = "cannot run on this machine" if known else "is unknown"
    if name.endswith("_hub"):
        problem = "would fetch code from a hub, which couple does not run"
    raise ValueError(f"attention backend {name!r} {problem}; choose from {', '.join(names)}.")


def _listeners(networks: Sequence[nn.Module], name: str) -> list[Any]:
    """The layers whose processor must be exchanged; refuses a name to which no layer listens."""
    layers = [layer for network in networks for layer in network.modules() if hasattr(layer, "processor")]
    older = [layer for layer in layers if isinstance(layer, Attention) and type(layer.processor) in EXCHANGEABLE]
    exchanged = older if name in OLDER else []
    deaf = [layer for layer in layers if layer not in exchanged and not _dispatches(layer)]
    kinds = ", ".join(sorted({type(layer.processor).__name__ for layer in deaf}))
    if len(deaf) == len(layers):
        fix = f"Its layers can be switched to {' and '.join(OLDER)}." if older else "Leave it as it is."
        owners = ", ".join(sorted({type(network).__name__ for network in networks})) or "a pipeline without networks"
        raise ValueError(f"attention backend {name!r} has no effect on {owners} ({kinds or 'no attention'}). {fix}")
    if deaf:
        _warn(f"attention backend {name!r}: {len(deaf)} of {len(layers)} attention layers ({kinds}) do not take it.")
    return exchanged


def _dispatches(layer: nn.Module) -> bool:
    return isinstance(layer, Attention | AttentionModuleMixin) and hasattr(layer.processor, "_attention_backend")


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)
