"""How much memory a call will take, counted on the meta device: nothing is loaded and nothing is computed.

Networks are built from their configs without weights and run once on tensors without data, while the bytes that are
alive are counted. Attention counts as fused, as it is on a GPU: it holds no matrix of scores. A network that cannot be
asked, since its class is not known here or it fails without data, is left out and counted as unknown.
"""

from __future__ import annotations

import importlib
import json
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from couple import autoencoders
from couple.memory.streaming import blocks, size, tensors

#: Arguments of calls that say how large the picture or video is.
SIZES = ("height", "width", "num_frames")


@dataclass(frozen=True)
class Estimate:
    """Bytes, for one trajectory.

    Attributes:
        weights: of every network, by its name in the pipeline.
        activations: the most that one forward of the denoiser holds beside its weights; None if it is unknown.
        latents: of the state.
        decoding: the most that decoding the state holds beside the weights; None if it is unknown.
        between: the most that a forward of the denoiser holds from one of its blocks to the next.
    """

    weights: Mapping[str, int]
    activations: int | None
    latents: int
    decoding: int | None
    between: int = 0


def estimate(model: Any, *, dtype: torch.dtype | None = None, **sizes: Any) -> Estimate:
    """Estimate what a call takes.

    Args:
        model: a folder with a pipeline in diffusers' format, a pipeline, or the `skeletons` of one.
        dtype: of the weights of a folder, bfloat16 if None; the others have their own.
        **sizes: `height`, `width`, `num_frames` of the call; what is not given is as the pipeline chooses.

    Returns:
        Bytes by what they are for.

    Raises:
        ValueError: the folder holds no pipeline, or one of its networks is of no known library.
    """
    if isinstance(model, (str, Path)):
        model = skeletons(Path(model), dtype or torch.bfloat16)
    networks = model if isinstance(model, Mapping) else _twins(model)
    weights = {name: size(tensors(network)) for name, network in networks.items()}
    denoiser: Any = next((networks[name] for name in ("transformer", "unet") if name in networks), None)
    vae: Any = next((network for network in networks.values() if autoencoders.is_autoencoder(network)), None)
    shape = state_shape(denoiser, vae, {name: sizes[name] for name in SIZES if sizes.get(name)})
    if shape is None or denoiser is None:
        return Estimate(weights, None, 0, None)
    kind = type(denoiser).__name__
    state = torch.empty(shape, device="meta", dtype=_dtype(denoiser))
    activations, between = _asked(lambda: peak(denoiser, denoiser, INPUTS[kind](denoiser.config, state)))
    decoding, _ = _asked(lambda: peak(vae, vae.decode, {"z": torch.empty(shape, device="meta", dtype=_dtype(vae))}))
    return Estimate(weights, activations, 4 * state.numel(), decoding, between or 0)


def _asked(question: Callable[[], tuple[int, int]]) -> tuple[int | None, int | None]:
    try:
        return question()
    except Exception:
        # Networks fail without data in as many ways as there are networks; that one cannot be asked ends no run.
        return None, None


def skeletons(folder: Path, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Build the networks of a pipeline's folder from their configs, without weights."""
    try:
        index = json.loads((folder / "model_index.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(folder)!r} holds no pipeline in diffusers' format: {error}.") from None
    found = {}
    for name, entry in index.items():
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
            continue
        library, kind = entry
        if library not in ("diffusers", "transformers"):
            continue
        cls = getattr(importlib.import_module(library), kind, None)
        if isinstance(cls, type) and issubclass(cls, nn.Module):
            found[name] = _on_meta(cls, folder / name, library, dtype)
    if not found:
        raise ValueError(f"{str(folder)!r}: its model_index.json names no network of diffusers or transformers.")
    return found


def _on_meta(cls: Any, folder: Path, library: str, dtype: torch.dtype) -> nn.Module:
    if library == "diffusers":
        config = cls.load_config(folder, local_files_only=True)
        return _empty(lambda: cls.from_config(config), dtype)
    config = cls.config_class.from_pretrained(folder, local_files_only=True)
    return _empty(lambda: cls(config), dtype)


def _twins(pipeline: Any) -> dict[str, nn.Module]:
    """Build the networks of a pipeline again, without weights; those that cannot be are shown as they are."""
    twins = {}
    value: Any
    for name, value in pipeline.components.items():
        if isinstance(value, nn.Module):
            try:
                kind: Any = type(value)
                twins[name] = _empty(partial(kind.from_config, value.config), _dtype(value))
            except Exception:  # as in `_asked`
                twins[name] = value
    return twins


def _empty(make: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
    with torch.device("meta"):
        # As a bare module: diffusers warns of layers that `from_pretrained` would keep in float32.
        return nn.Module.to(make(), dtype).eval()


def _dtype(network: nn.Module) -> torch.dtype:
    return next((t.dtype for t in network.parameters() if t.is_floating_point()), torch.float32)


def state_shape(denoiser: Any, vae: Any, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """Return the shape of the latents of one sample, (1, C, H, W) or (1, C, F, H, W); None if it is unknown."""
    kind, own = type(denoiser).__name__, getattr(denoiser, "config", None)
    own = own if isinstance(own, Mapping) else {}
    config: Any = _RELEASED.get(kind, {}) if vae is None else vae.config
    channels = config.get("z_dim") or config.get("latent_channels")
    if channels is None:
        return None
    factor = _ratio(config, vae, "spatial") or 2 ** (len(config.get("block_out_channels", (0,))) - 1)
    usual = dict(zip(SIZES, _USUAL.get(kind, ()), strict=False))
    side = own.get("sample_size")
    side = side if isinstance(side, int) else 128
    space = tuple(
        (sizes.get(name) or usual.get(name) or 0) // factor or own.get(f"sample_{name}") or side
        for name in ("height", "width")
    )
    is_video = "scale_factor_temporal" in config if vae is None else _has_frames(vae)
    if not is_video:
        return 1, channels, *space
    frames = sizes.get("num_frames") or usual.get("num_frames") or own.get("sample_frames") or 1
    return 1, channels, (frames - 1) // (_ratio(config, vae, "temporal") or 1) + 1, *space


def _ratio(config: Any, vae: Any, way: str) -> int | None:
    # In the config under two names, or computed from it by the autoencoder.
    name = f"{way}_compression_ratio"
    return config.get(f"scale_factor_{way}") or config.get(name) or getattr(vae, name, None)


def _has_frames(vae: nn.Module) -> bool:
    return any(isinstance(layer, nn.Conv3d) for layer in vae.modules())


def _flux(config: Any, state: Tensor) -> dict[str, Any]:
    _, _, height, width = state.shape
    tokens = (height // 2) * (width // 2)
    new = state.new_empty
    return {
        "hidden_states": new(1, tokens, config["in_channels"]),
        "encoder_hidden_states": new(1, 512, config["joint_attention_dim"]),
        "pooled_projections": new(1, config["pooled_projection_dim"]),
        "timestep": new(1),
        "img_ids": new(tokens, 3),
        "txt_ids": new(512, 3),
        "guidance": new(1, dtype=torch.float32) if config["guidance_embeds"] else None,
    }


def _wan(config: Any, state: Tensor) -> dict[str, Any]:
    new = state.new_empty
    return {
        "hidden_states": new(1, config["in_channels"], *state.shape[2:]),
        "timestep": new(1),
        "encoder_hidden_states": new(1, 512, config["text_dim"]),
    }


def _unet(config: Any, state: Tensor) -> dict[str, Any]:
    # Guidance doubles the rows: these pipelines evaluate both halves in one forward.
    new = state.new_empty
    arguments: dict[str, Any] = {
        "sample": new(2, config["in_channels"], *state.shape[2:]),
        "timestep": new(()),
        "encoder_hidden_states": new(2, 77, config["cross_attention_dim"]),
    }
    if config.get("addition_embed_type") == "text_time":
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        arguments["added_cond_kwargs"] = {"text_embeds": new(2, pooled), "time_ids": new(2, 6)}
    return arguments


#: What a denoiser is called with, from its config and an empty state.
INPUTS: Mapping[str, Callable[[Any, Tensor], dict[str, Any]]] = {
    "FluxTransformer2DModel": _flux,
    "UNet2DConditionModel": _unet,
    "WanTransformer3DModel": _wan,
}


#: The autoencoders these are released with, for pipelines without one.
_RELEASED: Mapping[str, Mapping[str, int]] = {
    "FluxTransformer2DModel": {"latent_channels": 16, "scale_factor_spatial": 8},
    "UNet2DConditionModel": {"latent_channels": 4, "scale_factor_spatial": 8},
    "WanTransformer3DModel": {"z_dim": 16, "scale_factor_spatial": 8, "scale_factor_temporal": 4},
}

#: Height, width and number of frames of the pipelines of diffusers, where the config of the denoiser has none.
_USUAL: Mapping[str, tuple[int, int, int]] = {
    "LTXVideoTransformer3DModel": (512, 704, 161),
    "MochiTransformer3DModel": (480, 848, 19),
    "WanTransformer3DModel": (480, 832, 81),
}


class _Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that are alive, and the most there ever were."""

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in given}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(output):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        self.most = max(self.most, self.now)
        return output

    def _count(self, storage: Any) -> None:
        # A storage is a new Python object whenever it is asked for; its address on the C++ side is not.
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self.now += storage.nbytes()
            weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, nbytes: int) -> None:
        self._known.discard(key)
        self.now -= nbytes


class _Fused(TorchFunctionMode):
    """Attention that makes its output and nothing else."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.nn.functional.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    return query.new_empty(*query.shape[:-1], value.shape[-1])


def peak(network: nn.Module, call: Callable[..., Any], arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Count what `call(**arguments)` holds beside its arguments and the network's weights.

    Returns:
        The most bytes at once, and the most at the end of one of the network's blocks.
    """
    given = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Tensor)]
    between = 0

    def look(*_: Any) -> None:
        nonlocal between
        between = max(between, alive.now)

    handles = [block.register_forward_hook(look) for block in blocks(network)]
    try:
        with torch.no_grad(), _Alive(tensors(network) + given) as alive, _Fused():
            call(**arguments)
    finally:
        for handle in handles:
            handle.remove()
    return alive.most, between
