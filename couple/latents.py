"""Latent spaces: whether equal numbers in two states mean the same picture.

Two latent pipelines can be compared number by number if the encoders of their autoencoders have the same weights, and
their states are scaled alike and laid out alike. The decoders may differ, as they do among the autoencoders made for
Stable Diffusion. `space` names these things for a pipeline; `check` refuses edges between different spaces, which
`couple.maps.bridge` can join.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import align_module_device, has_offloaded_params
from torch import nn

from couple import autoencoders
from couple.graph import Edge
from couple.maps import UNPACK, bridge, check_axes
from couple.trajectory import View

#: Distilled for the latents of another autoencoder: their own weights name no space.
STAND_INS = frozenset({"AutoencoderTiny"})


@dataclass(frozen=True)
class LatentSpace:
    """What the numbers of a pipeline's state mean: `state = scale * (encoder(picture) - shift)`.

    Attributes:
        encoder: 12 hexadecimal digits that stand for the weights of the encoder, see `space`.
        scale: one number, or one for each channel, or for each channel and place in a 2 x 2 patch.
        shift: likewise.
        packing: "tokens" for a sequence of patches, shape (B, S, C), "picture" for anything else.
    """

    encoder: str
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    packing: str

    def differences(self, other: LatentSpace) -> list[str]:
        """Say what keeps states of the two spaces from being compared; empty if they are the same.

        Example:
            >>> sd = LatentSpace("7fb3a1d20c4e", (0.18215,), (0.0,), "picture")
            >>> sd.differences(LatentSpace("7fb3a1d20c4e", (0.13025,), (0.0,), "picture"))
            ['scale 0.18215 against 0.13025']
        """
        found = []
        if self.encoder != other.encoder:
            found.append(f"encoder weights {self.encoder} against {other.encoder}")
        if not _close(self.scale, other.scale):
            found.append(f"scale {_short(self.scale)} against {_short(other.scale)}")
        if not _close(self.shift, other.shift):
            found.append(f"shift {_short(self.shift)} against {_short(other.shift)}")
        if self.packing != other.packing:
            found.append(f"a {self.packing} against a {other.packing}".replace("a tokens", "tokens"))
        return found


def space(pipeline: Any) -> LatentSpace | None:
    """Name the latent space a pipeline denoises in.

    The encoder is named by a hash over the shapes and signs of the weights of `encoder` and `quant_conv`. A sign
    outlives rounding, so one autoencoder has one name in float32, bfloat16 and float16; of autoencoders trained apart
    half the signs differ. 34 million weights, as in Stable Diffusion, take about 30 ms on one core.

    Args:
        pipeline: a pipeline; its diffusers autoencoder is looked for under the name `vae`.

    Returns:
        The space, or None if it cannot be named: there is no autoencoder (pixels, a bare denoiser), it was distilled
        for the latents of another (`AutoencoderTiny`), or its weights are not loaded (the meta device).

    Raises:
        TypeError: it is no pipeline.
    """
    if isinstance(pipeline, type) or not callable(pipeline):
        raise TypeError(f"`pipeline` must be a pipeline, such as trajectory.pipeline; got {pipeline!r:.80}.")
    place = _place(pipeline)
    return None if place is None else _named(*place)


def check(edges: Iterable[Edge]) -> None:
    """Refuse edges that compare states of different spaces, or look for places in tokens, before any network runs.

    A space that cannot be named is taken for the right one, and so is what comes out of a map that is not one of
    `couple.maps`. Nothing is hashed where both ends have the very same autoencoder.

    Args:
        edges: the coupling.

    Raises:
        ValueError: the spaces of two ends differ, a bridge leads out of another space than its trajectory's, or a map
            or an energy of places is given tokens.
    """
    named = functools.cache(_named)
    for edge in edges:
        _check_tokens(edge)
        a, b = _seen(edge.a, named), _seen(edge.b, named)
        differences = _differences(a, b, named)
        if a and b and differences:
            names = " and ".join(repr(trajectory.name) for trajectory in edge.trajectories)
            raise ValueError(
                f"edge {edge.label}: equal latents of {names} are different pictures ({', '.join(differences)}). "
                f"{_fix(edge, a, b, differences)} If you know that they agree, say so with a map that changes "
                "nothing, a.through(torch.nn.Identity())."
            )


# What a space is named after: an autoencoder, and how states made with it are laid out.
_Place = tuple[nn.Module, str]
_Naming = Callable[[nn.Module, str], LatentSpace | None]


def _place(pipeline: Any) -> _Place | None:
    return _place_of(getattr(pipeline, "vae", None), _packing(pipeline))


def _packing(pipeline: Any) -> str:
    return "tokens" if hasattr(pipeline, "_pack_latents") else "picture"


def _check_tokens(edge: Edge) -> None:
    for end in (edge.a, edge.b):
        if _packing(end.trajectory.pipeline) == "tokens" and (axes := end.check(3)):
            check_axes(f"edge {edge.label}", edge.energy, axes)


def _place_of(vae: Any, packing: str) -> _Place | None:
    if not autoencoders.is_autoencoder(vae) or type(vae).__name__ in STAND_INS:
        return None
    return vae, packing


def _named(vae: nn.Module, packing: str) -> LatentSpace | None:
    encoder = _fingerprint(vae)
    return None if encoder is None else LatentSpace(encoder, *autoencoders.scale_and_shift(vae), packing)


def _fingerprint(vae: nn.Module) -> str | None:
    digest = hashlib.sha256()
    parts = [part for name in ("encoder", "quant_conv") if (part := getattr(vae, name, None)) is not None]
    for layer in (layer for part in parts for layer in part.modules()):
        # Weights that accelerate keeps elsewhere are lent for as long as it takes to read them.
        with align_module_device(layer, torch.device("cpu")) if has_offloaded_params(layer) else nullcontext():
            for weight in layer.parameters(recurse=False):
                if weight.is_meta:
                    return None
                signs = torch.signbit(weight.detach().float()).cpu().numpy()
                digest.update(repr(signs.shape).encode() + np.packbits(signs).tobytes())
    return digest.hexdigest()[:12]


def _seen(view: View, named: _Naming) -> _Place | None:
    """The space in which a view shows its trajectory."""
    place = _place(view.trajectory.pipeline)
    for map in view.maps:
        if isinstance(map, bridge):
            differences = _differences(place, _place_of(map.vae_a, "picture"), named)
            if place and differences:
                name = view.trajectory.name
                fix = UNPACK if place[1] == "tokens" else f"Write maps.bridge({name}.pipeline.vae, ...)."
                raise ValueError(
                    f"view '{view.label}': the bridge does not start in the latents of '{name}' "
                    f"({', '.join(differences)}). {fix}"
                )
            place = _place_of(map.vae_b, "picture")
        elif not getattr(map, "keeps_space", False):
            place = None
    return place


def _differences(a: _Place | None, b: _Place | None, named: _Naming) -> list[str]:
    if a is None or b is None or a == b:
        return []
    space_a, space_b = named(*a), named(*b)
    return [] if space_a is None or space_b is None else space_a.differences(space_b)


def _fix(edge: Edge, a: _Place, b: _Place, differences: list[str]) -> str:
    tokens = UNPACK if "tokens" in (a[1], b[1]) else ""
    if len(differences) == 1 and a[1] != b[1]:
        return tokens
    ways = bridge.one_way if edge.directed else bridge.both_ways
    return f"Bridge them, where a and b are the trajectories: {ways}. {tokens}".rstrip()


def _close(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    # Flux.2 keeps them with its weights, which may be rounded to bfloat16: by 1 part in 256.
    return len(a) == len(b) and all(math.isclose(x, y, rel_tol=1 / 200) for x, y in zip(a, b, strict=True))


def _short(values: tuple[float, ...]) -> str:
    first = f"{values[0]:.6g}"
    return first if len(values) == 1 else f"({first}, ... {len(values)} numbers)"
