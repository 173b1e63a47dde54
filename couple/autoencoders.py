"""Pictures to latents and back, as the pipelines do it with their diffusers autoencoder.

A pipeline's state is what the encoder makes of a picture, moved and scaled to about unit variance:
`state = scale * (latents - shift)`. Autoencoders write the two numbers down in several ways (`scaling_factor` and
`shift_factor`; a mean and a deviation for each channel; a batch norm over 2 x 2 patches); here they are one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

#: Video autoencoders whose first latent frame is a picture by itself; QwenImage draws with one.
ONE_FRAME = frozenset({"AutoencoderKLWan", "AutoencoderKLQwenImage"})


def is_autoencoder(value: Any) -> bool:
    """Tell whether `value` is a network with the interface of a diffusers autoencoder."""
    interface = all(hasattr(value, part) for part in ("encoder", "encode", "decode"))
    return isinstance(value, nn.Module) and interface and isinstance(getattr(value, "config", None), Mapping)


def check(argument: str, vae: Any) -> None:
    """Refuse what `decode` and `encode` cannot work with.

    Raises:
        TypeError: `vae` is no autoencoder.
        NotImplementedError: it is one of videos, of which a single latent frame is no picture.
    """
    if not is_autoencoder(vae):
        raise TypeError(f"`{argument}` must be a diffusers autoencoder, e.g. pipe.vae; got {vae!r:.80}.")
    kind = type(vae).__name__
    if kind not in ONE_FRAME and any(isinstance(layer, nn.Conv3d) for layer in vae.modules()):
        raise NotImplementedError(
            f"`{argument}`: {kind} makes videos and a bridge carries pictures; only {' and '.join(sorted(ONE_FRAME))} "
            "make a picture of one latent frame."
        )


def scale_and_shift(vae: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return scale and shift of `state = scale * (latents - shift)`.

    Returns:
        Each one number, or one for each channel, or (Flux.2) for each channel and place in a 2 x 2 patch.
    """
    config = vae.config
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    if hasattr(vae, "bn"):
        mean = vae.bn.running_mean.tolist()
        deviation = (vae.bn.running_var + config["batch_norm_eps"]).sqrt().tolist()
    factor = config.get("scaling_factor") or 1.0
    if mean is None or deviation is None:
        return (factor,), (config.get("shift_factor") or 0.0,)
    return tuple(factor / value for value in deviation), tuple(mean)


def decode(vae: Any, state: Tensor) -> Tensor:
    """Turn scaled latents into pictures.

    Args:
        vae: the autoencoder.
        state: shape (B, C, H, W), any floating dtype and device.

    Returns:
        Shape (B, 3, height, width), about [-1, 1], in the dtype and on the device the autoencoder works in.
    """
    scale, shift = (_spread(values, state) for values in scale_and_shift(vae))
    with wide_enough(vae):
        latents = (state / scale + shift).to(device(vae), vae.dtype)
        if type(vae).__name__ in ONE_FRAME:
            return vae.decode(latents.unsqueeze(2), return_dict=False)[0].squeeze(2)
        return vae.decode(latents, return_dict=False)[0]


def encode(vae: Any, pictures: Tensor) -> Tensor:
    """Turn pictures into scaled latents: the mode of the posterior, so that nothing is drawn.

    Args:
        vae: the autoencoder.
        pictures: shape (B, 3, height, width), in [-1, 1], any floating dtype and device.

    Returns:
        Shape (B, C, H, W), float32, on the device the autoencoder works on.
    """
    with wide_enough(vae):
        pictures = pictures.to(device(vae), vae.dtype)
        if type(vae).__name__ in ONE_FRAME:
            latents = _mode(vae.encode(pictures.unsqueeze(2), return_dict=False)[0]).squeeze(2)
        else:
            latents = _mode(vae.encode(pictures, return_dict=False)[0])
    latents = latents.float()
    scale, shift = (_spread(values, latents) for values in scale_and_shift(vae))
    return (latents - shift) * scale


def _mode(encoded: Any) -> Tensor:
    return encoded if isinstance(encoded, Tensor) else encoded.mode()


def _spread(values: tuple[float, ...], state: Tensor) -> Tensor:
    """Lay numbers for channels, or for 2 x 2 patches of them, over a state of shape (B, C, H, W)."""
    channels, height, width = state.shape[1:]
    # A device is not to wait for it.
    spread = torch.tensor(values, dtype=state.dtype).to(state.device, non_blocking=True)
    if len(values) == 4 * channels:
        return spread.reshape(channels, 2, 2).repeat(1, height // 2, width // 2)
    return spread.reshape(-1, 1, 1)


def device(vae: Any) -> torch.device:
    """Return where an autoencoder works: its weights may be elsewhere until accelerate brings them for a call."""
    hooks = (getattr(layer, "_hf_hook", None) for layer in vae.modules())
    devices = (getattr(hook, "execution_device", None) for hook in hooks)
    return torch.device(next((found for found in devices if found is not None), vae.device))


@contextmanager
def wide_enough(vae: Any) -> Iterator[None]:
    """Run an autoencoder that overflows in float16 in float32, as the SDXL pipelines do with theirs."""
    upcast = vae.dtype == torch.float16 and bool(vae.config.get("force_upcast"))
    if upcast:
        vae.to(torch.float32)
    try:
        yield
    finally:
        if upcast:
            vae.to(torch.float16)
