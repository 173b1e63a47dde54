"""What a clean prediction looks like before the run is over: small pictures of x0, cheap beside a step.

Latents become colours in one of four ways, the first that can be had:

* `decoder`: a tiny autoencoder distilled for these latents (TAESD, TAEF1), given by the caller, in the pipeline, or in
  the local cache of the hub; nothing is downloaded.
* `projection`: one matrix from the channels of a latent to the pixels under it, fitted once by least squares to what
  the pipeline's own autoencoder makes of a few smooth random pictures. So no table for known models is needed. Latent
  frames of a video that stand for several frames each have a matrix of their own, from the same pictures in motion.
* `pixels`: the state of a pipeline without an autoencoder that has one or three channels.
* `components`: the three directions in which the channels vary most. Colours mean nothing then, places do.
"""

from __future__ import annotations

import functools
import inspect
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from couple import autoencoders
from couple.backends import flux, video
from couple.trajectory import Trajectory

#: Tiny autoencoders on the hub, by the number of channels and the scale of the latents they decode.
TINY = {
    (4, 0.18215): "madebyollin/taesd",
    (4, 0.13025): "madebyollin/taesdxl",
    (16, 0.3611): "madebyollin/taef1",
    (16, 1.5305): "madebyollin/taesd3",
}
#: The longest side of one picture in pixels, and how many views or frames of a prediction are shown in a row.
SIDE, SHOWN = 256, 4
#: Pictures in a row are that share of their height apart, and at least a pixel.
APART = 32
# The smooth random pictures that a projection is fitted to: how many, their sides, and how far they move from frame to
# frame, in pixels, each another way. Of pictures at rest, latents do not show what stands for motion.
_SAMPLES, _SAMPLE = 4, 128
_MOVES = ((2, 0), (0, 2), (-2, 0), (0, -2))

_Way = Callable[[Tensor], Tensor]


class Painter:
    """Paints the clean predictions of one trajectory, all in the same way.

    Args:
        trajectory: whose predictions.
        decoder: a diffusers autoencoder for its latents, e.g. an `AutoencoderTiny`; None for what can be had.

    Attributes:
        how: "decoder", "projection", "pixels" or "components"; None before the first prediction.

    Raises:
        TypeError: `decoder` is no autoencoder.
    """

    def __init__(self, trajectory: Trajectory, decoder: Any = None) -> None:
        """Nothing is fitted yet."""
        if decoder is not None:
            autoencoders.check("decoder", decoder)
        self.how: str | None = None
        self._trajectory = trajectory
        self._decoder = decoder
        vae = getattr(trajectory.pipeline, "vae", None)
        self._vae = vae if autoencoders.is_autoencoder(vae) else None
        self._paint: _Way | None = None
        self._paint_later: _Way | None = None

    def __call__(self, x0: Tensor) -> Image.Image:
        """Paint a prediction.

        Args:
            x0: a state of the pipeline: a batch of pictures, views, videos, or tokens that stand for them.

        Returns:
            An RGB image: up to `SHOWN` pictures of the batch, evenly spread, in a row, no side of one over `SIDE`. A
            latent frame that stands for several frames is shown as the last of them.

        Raises:
            ValueError: `x0` has another number of axes.
        """
        with torch.no_grad():
            latents = _pictures(x0.float(), self._trajectory, _channels(self._vae))
            shown = torch.linspace(0, len(latents) - 1, min(len(latents), SHOWN)).round().long()
            latents = latents[shown.to(latents.device)]
            if self._paint is None:
                self.how, self._paint = self._way(latents)
            colours = self._paint(latents).float()
            if x0.ndim == 5 and self._paint_later is not None:
                later = (shown % _frames(x0, latents)).nonzero()[:, 0].to(colours.device)
                if len(later):
                    colours[later] = self._paint_later(latents[later]).float()
        levels = (colours.nan_to_num(0, 1, -1).clamp(-1, 1) + 1).mul(127.5).round().to(torch.uint8)
        return _row([Image.fromarray(each) for each in levels.permute(0, 2, 3, 1).cpu().numpy()])

    def _way(self, latents: Tensor) -> tuple[str, _Way]:
        decoder, channels = self._decoder, latents.shape[1]
        if decoder is None and self._vae is not None:
            tiny = type(self._vae).__name__ == "AutoencoderTiny"
            decoder = self._vae if tiny else local_decoder(self._vae)
            decoder = decoder if decoder is None or tiny else decoder.to(latents.device)
        if decoder is not None and channels == _channels(decoder):
            return "decoder", functools.partial(autoencoders.decode, decoder)
        if self._vae is not None and channels == _channels(self._vae):
            together = video.frame_multiple(self._trajectory.pipeline)
            try:
                self._paint_later = projection(self._vae, together) if together > 1 else None
                return "projection", projection(self._vae)
            except (RuntimeError, ValueError, TypeError, NotImplementedError):
                # A preview is not worth a run: an autoencoder that cannot be asked is done without.
                return "components", components(latents)
        if self._vae is None and channels in (1, 3):
            return "pixels", lambda pixels: pixels.expand(-1, 3, -1, -1)
        return "components", components(latents)


def local_decoder(vae: Any, cache: Path | None = None) -> Any:
    """The tiny autoencoder for the latents of `vae`, if the local cache of the hub has it.

    Args:
        vae: a diffusers autoencoder.
        cache: folder of the cache, None for the usual one.

    Returns:
        An `AutoencoderTiny` in float32 on the CPU, or None.
    """
    name = TINY.get((_channels(vae) or 0, vae.config.get("scaling_factor")))
    if name is None:
        return None
    from diffusers import AutoencoderTiny

    try:
        return AutoencoderTiny.from_pretrained(name, cache_dir=cache, local_files_only=True, use_safetensors=True)
    except OSError:
        return None


_fitted: weakref.WeakKeyDictionary[nn.Module, dict[int, _Way]] = weakref.WeakKeyDictionary()


def projection(vae: Any, together: int = 1) -> _Way:
    """The linear map from scaled latents to pixels that is nearest to undoing the encoder of `vae`.

    The same weights give the same map; it is fitted once for each autoencoder object.

    Args:
        vae: a diffusers autoencoder.
        together: how many frames a latent stands for: 1 for pictures and the first frame of a video, more for the
            latent frames after it. The map shows the last of them.

    Returns:
        A map from latents, shape (B, C, h, w), float32, to pictures, shape (B, 3, H, W), about [-1, 1].
    """
    fitted = _fitted.setdefault(vae, {})
    if together not in fitted:
        film = _smooth_pictures().unsqueeze(2)
        if together > 1:
            film = torch.stack([_moved(film[:, :, 0], frame) for frame in range(together + 1)], 2)
        with torch.no_grad():
            latents = _encode(vae, film).float().cpu()
        patch = _SAMPLE // latents.shape[-1]
        pixels = torch.nn.functional.pixel_unshuffle(film[:, :, -1], patch)
        matrix = torch.linalg.lstsq(_rows(latents).double(), _rows(pixels)[:, :-1].double()).solution.float()
        fitted[together] = functools.partial(_project, matrix, patch)
    return fitted[together]


def components(latents: Tensor) -> _Way:
    """A map of latents, shape (B, C, h, w), to three channels: the main components of the latents given here."""
    rows = latents.flatten(2).transpose(1, 2).flatten(0, 1).nan_to_num(0, 0, 0)
    mean = rows.mean(0)
    _, lengths, axes = torch.linalg.svd(rows - mean, full_matrices=False)
    # An axis has no sign; take the one whose largest part is positive, so that the picture does not flip.
    axes = axes[:3] * axes[:3].gather(1, axes[:3].abs().argmax(1, keepdim=True)).sign()
    scale = (lengths[:3] / math.sqrt(len(rows))).clamp_min(torch.finfo(torch.float32).tiny)
    axes = torch.nn.functional.pad(axes / (2 * scale[:, None]), (0, 0, 0, 3 - len(axes)))

    def paint(latents: Tensor) -> Tensor:
        return torch.einsum("kc,bchw->bkhw", axes, latents - mean[:, None, None])

    return paint


def _project(matrix: Tensor, patch: int, latents: Tensor) -> Tensor:
    batch, _, height, width = latents.shape
    pixels = (_rows(latents) @ matrix.to(latents.device)).reshape(batch, height, width, -1).permute(0, 3, 1, 2)
    return torch.nn.functional.pixel_shuffle(pixels, patch)


def _rows(picture: Tensor) -> Tensor:
    """The channels of every place, and a one: shape (B * h * w, C + 1)."""
    return torch.nn.functional.pad(picture.permute(0, 2, 3, 1).flatten(0, 2), (0, 1), value=1.0)


def _smooth_pictures() -> Tensor:
    """Pictures in which large forms weigh more than small ones, as in photographs; always the same."""
    generator = torch.Generator().manual_seed(0)
    down, across = torch.fft.fftfreq(_SAMPLE)[:, None], torch.fft.rfftfreq(_SAMPLE)
    frequency = (down**2 + across**2).sqrt().clamp_min(1 / _SAMPLE)
    noise = torch.randn(_SAMPLES, 3, _SAMPLE, _SAMPLE, generator=generator)
    forms = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(_SAMPLE, _SAMPLE))
    forms = (forms - forms.mean((2, 3), keepdim=True)) / forms.std((1, 2, 3), keepdim=True)
    grounds = torch.rand(_SAMPLES, 3, 1, 1, generator=generator) - 0.5
    return (forms / 2 + 1.2 * grounds).clamp(-1, 1)


def _moved(pictures: Tensor, frame: int) -> Tensor:
    return torch.stack([
        picture.roll((frame * down, frame * across), (1, 2))
        for picture, (down, across) in zip(pictures, _MOVES, strict=True)
    ])  # fmt: skip


def _encode(vae: Any, film: Tensor) -> Tensor:
    """Scaled latents of the last frame, or of the frames that end there, of films, shape (B, 3, F, H, W)."""
    if not any(isinstance(layer, nn.Conv3d) for layer in vae.modules()):
        return autoencoders.encode(vae, film[:, :, -1])
    if "latents_mean" in dict(vae.named_buffers()):
        raise NotImplementedError(f"{type(vae).__name__} keeps the scale of its latents outside its config.")
    film = film.to(autoencoders.device(vae), vae.dtype)
    frame = vae.encode(film).latent_dist.mode()[:, :, -1].float()
    scale, shift = (torch.tensor(values, device=frame.device) for values in autoencoders.scale_and_shift(vae))
    return (frame - shift.reshape(-1, 1, 1)) * scale.reshape(-1, 1, 1)


def _channels(vae: Any) -> int | None:
    return None if vae is None else vae.config.get("latent_channels") or vae.config.get("z_dim")


def _pictures(x0: Tensor, trajectory: Trajectory, channels: int | None) -> Tensor:
    """Any state as pictures, shape (N, C, h, w); `channels` are those of the autoencoder, if there is one."""
    if x0.ndim == 4:
        return x0
    if x0.ndim == 5:
        frames_first = x0.shape[2] == channels and x0.shape[1] != channels
        return (x0 if frames_first else x0.transpose(1, 2)).flatten(0, 1)
    if x0.ndim == 3:
        return _unpacked(x0, trajectory, channels)
    raise ValueError(f"a prediction of shape {tuple(x0.shape)} of {trajectory.name!r} is no picture.")


def _unpacked(tokens: Tensor, trajectory: Trajectory, channels: int | None) -> Tensor:
    """Tokens as latent pictures of about the shape asked for: pipelines round sizes in their own ways."""
    pipeline, called = trajectory.pipeline, trajectory.call_kwargs
    batch, count, width = tokens.shape
    frames = called.get("num_frames") or _default(pipeline, "num_frames") or 1
    frames = (frames - 1) // video.frame_multiple(pipeline) + 1
    frames = frames if count % frames == 0 else 1
    places = count // frames
    aspect = (called.get("height") or 1) / (called.get("width") or called.get("height") or 1)
    heights = [h for h in range(1, places + 1) if places % h == 0]
    height = min(heights, key=lambda h: abs(math.log(h * h / places / aspect)))
    tokens = tokens.reshape(batch * frames, places, width)
    if width == 4 * (channels or 0):
        return flux.unpack(tokens, 2 * height, 2 * places // height)
    return tokens.transpose(1, 2).unflatten(2, (height, places // height))


def _frames(video: Tensor, latents: Tensor) -> int:
    """Number of latent frames of a state of five axes, whichever comes first, frames or channels."""
    return video.shape[2] if video.shape[1] == latents.shape[1] else video.shape[1]


def _default(pipeline: Any, argument: str) -> Any:
    parameter = inspect.signature(type(pipeline).__call__).parameters.get(argument)
    return parameter.default if parameter is not None and parameter.default is not inspect.Parameter.empty else None


def _row(pictures: list[Image.Image]) -> Image.Image:
    for picture in pictures:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    width, height = pictures[0].size
    apart = max(height // APART, 1)
    row = Image.new("RGB", (len(pictures) * (width + apart) - apart, height), "white")
    for k, picture in enumerate(pictures):
        row.paste(picture, (k * (width + apart), 0))
    return row
