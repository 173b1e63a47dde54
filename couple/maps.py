"""Differentiable maps from a state to what an energy compares: `trajectory.through(map)`.

A map is any callable from a tensor to a tensor that autograd can differentiate; the ones here cover rows,
frames, crops, sizes and coarse structure. Maps that only cut a piece out (`row`, `frame`, `crop`) are marked
`is_slice`: squared distances through them keep their closed form. Those after which a latent still means what it
did are marked `keeps_space`. Those that need places are marked with the numbers of axes a state may have,
`state_axes`: tokens, as of Flux, have no neighbours, and an edge refuses such a map of them. `bridge`, which leads into
the latents of another autoencoder, is the one map without a gradient. Energies live in `couple.energies`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from couple import autoencoders

#: How tokens are made what has places: for maps and energies, to be compared with pictures, and for a bridge.
UNPACK = (
    "Make a picture of the tokens first, a.through(functools.partial(couple.backends.flux.unpack, height=H, width=W)), "
    "for latents of H x W."
)
_LAYOUTS = {3: "tokens, (B, S, C)", 4: "a picture, (B, C, H, W)", 5: "a video, (B, C, F, H, W)"}


@dataclass(frozen=True)
class row:
    """Row `k` of the batch axis, kept as a batch of one.

    Args:
        k: row index; negative counts from the end.

    Example:
        >>> row(1)(torch.arange(3)).tolist()
        [1]
    """

    k: int
    dim: ClassVar[int] = 0
    is_slice: ClassVar[bool] = True
    keeps_space: ClassVar[bool] = True

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Cut the row out of `x`, shape (B, ...), giving (1, ...)."""
        _check_index(self.k, 0, x, self)
        return x.narrow(0, self.k, 1)


@dataclass(frozen=True)
class frame:
    """Latent frame `k` of a video; the frame axis goes, so a frame compares with an image latent.

    Args:
        k: frame index; negative counts from the end.
        dim: the frame axis; 2 in diffusers' (B, C, F, H, W).

    Example:
        >>> frame(0)(torch.zeros(1, 4, 3, 8, 8)).shape
        torch.Size([1, 4, 8, 8])
    """

    k: int
    dim: int = 2
    state_axes: ClassVar[tuple[int, ...]] = (5,)
    is_slice: ClassVar[bool] = True
    keeps_space: ClassVar[bool] = True

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Cut the frame out of `x`."""
        _check_index(self.k, self.dim, x, self)
        return x.select(self.dim, self.k)


@dataclass(frozen=True)
class crop:
    """A rectangle of the last two axes.

    Args:
        top: first row, in pixels of the state.
        left: first column.
        height: rows kept.
        width: columns kept.

    Example:
        >>> crop(0, 4, 2, 3)(torch.zeros(1, 4, 8, 8)).shape
        torch.Size([1, 4, 2, 3])
    """

    top: int
    left: int
    height: int
    width: int
    state_axes: ClassVar[tuple[int, ...]] = (4, 5)
    is_slice: ClassVar[bool] = True
    keeps_space: ClassVar[bool] = True

    def __post_init__(self):
        """Refuse an empty rectangle."""
        if min(self.top, self.left) < 0 or min(self.height, self.width) < 1:
            raise ValueError(f"{call(self)}: top and left must be 0 or more, height and width 1 or more.")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Cut the rectangle out of `x`, shape (..., H, W)."""
        if x.ndim < 2 or self.top + self.height > x.shape[-2] or self.left + self.width > x.shape[-1]:
            raise ValueError(f"{call(self)} does not fit in a state of shape {tuple(x.shape)}.")
        return x[..., self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True)
class resize:
    """The last two axes resized to `height` x `width`, bilinear and antialiased.

    Args:
        height: new height, in pixels of the state.
        width: new width.

    Example:
        >>> resize(4, 6)(torch.ones(1, 4, 8, 8)).shape
        torch.Size([1, 4, 4, 6])
    """

    height: int
    width: int
    state_axes: ClassVar[tuple[int, ...]] = (4, 5)
    keeps_space: ClassVar[bool] = True

    def __post_init__(self):
        """Refuse an empty size."""
        if min(self.height, self.width) < 1:
            raise ValueError(f"{call(self)}: height and width must be 1 or more.")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Resize `x`, shape (..., H, W)."""
        planes = _planes(x, self)
        resized = F.interpolate(planes, (self.height, self.width), mode="bilinear", antialias=True)
        return resized.reshape(*x.shape[:-2], self.height, self.width)


@dataclass(frozen=True)
class low_pass:
    """Every `size` x `size` block of the last two axes replaced by its mean: smaller things go.

    An orthogonal projection: applied twice it changes nothing, and it is its own adjoint. Blocks cut by the
    lower or right border are averaged over the part inside.

    Args:
        size: edge of a block, in pixels of the state.

    Example:
        >>> low_pass(2)(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
        tensor([[3., 3.],
                [3., 3.]])
    """

    size: int
    state_axes: ClassVar[tuple[int, ...]] = (4, 5)
    example: ClassVar[str] = "low_pass(8)"
    keeps_space: ClassVar[bool] = True

    def __post_init__(self):
        """Refuse a size that is not a positive whole number."""
        if not isinstance(self.size, int) or self.size < 1:
            raise ValueError(
                f"low_pass: `size` must be a whole number, 1 or more; got {self.size!r:.80}. Did you mean low_pass(8)?"
            )

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Project `x`, shape (..., H, W)."""
        height, width = x.shape[-2:] if x.ndim > 1 else (0, 0)
        means = F.avg_pool2d(_planes(x, self), self.size, ceil_mode=True, count_include_pad=False)
        blocks = means.repeat_interleave(self.size, -1).repeat_interleave(self.size, -2)
        return blocks[..., :height, :width].reshape(x.shape)


class bridge:
    """Latents of one autoencoder as those another makes of the same picture: decode, resize, encode.

    No gradient passes, so an edge through it must be directed, away from it. For a pull both ways, give two:

        edges = [
            *couple.pair(a.through(maps.bridge(a.pipeline.vae, b.pipeline.vae)), b, weight=w, directed=True),
            *couple.pair(b.through(maps.bridge(b.pipeline.vae, a.pipeline.vae)), a, weight=w, directed=True),
        ]

    Each autoencoder works in its own dtype and on its own device (in float32 if its config asks to `force_upcast`
    from float16), once a meeting. `AutoencoderTiny` in place of either makes that cheap.

    Args:
        vae_a: the diffusers autoencoder whose latents come in.
        vae_b: the one whose latents go out: the modes of its posterior, so that nothing is drawn.
        size: height and width, in pixels, of what `vae_b` encodes, that is of b's pictures; None for the size that
            `vae_a` decodes.

    Attributes:
        vae_a: as given.
        vae_b: as given.
        size: as given.

    Raises:
        TypeError: an argument is no autoencoder.
        NotImplementedError: one is a video autoencoder, other than those of Wan and QwenImage.
        ValueError: the size is not two positive numbers.
    """

    example: ClassVar[str] = "bridge(a.pipeline.vae, b.pipeline.vae)"
    one_way: ClassVar[str] = (
        "couple.pair(a.through(maps.bridge(a.pipeline.vae, b.pipeline.vae)), b, weight=..., directed=True)"
    )
    both_ways: ClassVar[str] = (
        f"{one_way} + couple.pair(b.through(maps.bridge(b.pipeline.vae, a.pipeline.vae)), a, weight=..., directed=True)"
    )

    def __init__(self, vae_a: Any, vae_b: Any, *, size: tuple[int, int] | None = None):
        """Check both ends; nothing runs."""
        autoencoders.check("vae_a", vae_a)
        autoencoders.check("vae_b", vae_b)
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"bridge: `size` must be height and width in pixels, e.g. (512, 512); got {size}.")
        self.vae_a, self.vae_b, self.size = vae_a, vae_b, size

    @torch.no_grad()
    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Bring scaled latents across.

        Args:
            x: shape (B, C, H, W), any floating dtype and device.

        Returns:
            Shape (B, C', H', W') as `vae_b` has it, dtype and device of `x`.
        """
        if x.ndim != 4:
            fix = "a frame, e.g. a.frames(0)" if x.ndim == 5 else "tokens unpacked with couple.backends.flux.unpack"
            raise ValueError(f"{self} works on latents of shape (B, C, H, W); got {tuple(x.shape)}. Give it {fix}.")
        picture = autoencoders.decode(self.vae_a, x)
        if self.size is not None:
            picture = resize(*self.size)(picture)
        return autoencoders.encode(self.vae_b, picture).to(x.device, x.dtype)

    def __repr__(self) -> str:
        """Write how it is made, with classes in place of the networks."""
        size = "" if self.size is None else f", size={self.size}"
        return f"bridge({type(self.vae_a).__name__}, {type(self.vae_b).__name__}{size})"


def call(value) -> str:
    """Write a map, energy or law the way it is made, e.g. `low_pass(8)`.

    Example:
        >>> call(crop(0, 0, 8, 8)), call(torch.sigmoid)
        ('crop(0, 0, 8, 8)', 'sigmoid')
    """
    if not is_dataclass(value):
        return getattr(value, "__name__", repr(value))
    arguments = (getattr(value, field.name) for field in fields(value))
    written = (call(argument) if callable(argument) else repr(argument) for argument in arguments)
    return f"{type(value).__name__}({', '.join(written)})"


def check_axes(where: str, acts: Any, ndim: int) -> None:
    """Refuse a map or an energy that needs places, on a state that has none where it would look for them.

    Args:
        where: the view or edge, for the message.
        acts: the map or energy; one without `state_axes` takes anything.
        ndim: how many axes the state has.

    Raises:
        ValueError: it does not work on such states.
    """
    axes = getattr(acts, "state_axes", (ndim,))
    if ndim in axes:
        return
    if ndim == 3:
        fix = UNPACK
    elif ndim == 4:
        fix = "It is one frame already: give the trajectory itself, or a row of its batch, a[0]."
    else:
        fix = "Give the state those axes first, e.g. a.through(lambda x: x.unflatten(1, (C, H, W)))."
    raise ValueError(
        f"{where}: {call(acts)} works on {' or '.join(_LAYOUTS[n] for n in axes)}; the state has {ndim} axes"
        f"{', those of ' + _LAYOUTS[ndim] if ndim in _LAYOUTS else ''}. {fix}"
    )


def _planes(x: torch.Tensor, map) -> torch.Tensor:
    if x.ndim < 2:
        raise ValueError(f"{call(map)} works on states of shape (..., H, W); got {tuple(x.shape)}.")
    return x.reshape(1, -1, *x.shape[-2:])


def _check_index(k: int, dim: int, x: torch.Tensor, map) -> None:
    if not -x.ndim <= dim < x.ndim:
        raise IndexError(f"{call(map)}: a state of shape {tuple(x.shape)} has no axis {dim}.")
    if not -x.shape[dim] <= k < x.shape[dim]:
        raise IndexError(f"{call(map)}: axis {dim} of a state of shape {tuple(x.shape)} has no index {k}.")
