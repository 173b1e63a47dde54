"""What IC-Light does to pictures before its autoencoder sees them: sizes, grey values, the foreground over grey.

Source of the formulas: lllyasviel/IC-Light@bcf3f29c, gradio_demo.py. Its matting network, BRIA RMBG-1.4, is under a
licence of its own and not used here; `matting_input` prepares a picture for those who run it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

#: The grey value that becomes exactly 0 in the network's range.
GREY = 127


def to_model(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size as input of the autoencoder, v / 127 - 1, shape (V, 3, H, W), float32."""
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return pixels.permute(0, 3, 1, 2).float() / GREY - 1


def center_crop(picture: Image.Image, height: int, width: int) -> Image.Image:
    """Resize (Lanczos) to cover `height` x `width` pixels, and cut off equal parts on both sides."""
    scale = max(width / picture.width, height / picture.height)
    wide, high = round(picture.width * scale), round(picture.height * scale)
    resized = picture.resize((wide, high), Image.Resampling.LANCZOS)
    return resized.crop(((wide - width) / 2, (high - height) / 2, (wide + width) / 2, (high + height) / 2))


def no_crop(picture: Image.Image, height: int, width: int) -> Image.Image:
    """Resize (Lanczos) to `height` x `width` pixels, changing the proportions."""
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def fit_alpha(alpha: Tensor, height: int, width: int) -> np.ndarray:
    """A matte of any size, shape (h, w), as one of the picture's: bilinear, in [0, 1], shape (H, W, 1), float32."""
    fitted = interpolate(alpha[None, None].float(), size=(height, width), mode="bilinear")
    return fitted[0, 0].clamp(0, 1)[..., None].cpu().numpy()


def over_grey(picture: Image.Image, alpha: np.ndarray, sigma: float = 0.0) -> Image.Image:
    """Lay the foreground over grey: 127 + (v - 127 + sigma) * alpha, cut to [0, 255] and to integers.

    Args:
        picture: RGB.
        alpha: 1 in the foreground, shape (H, W, 1), float32.
        sigma: brightens the foreground; the demo uses 0 to relight and 16 to find normals.
    """
    pixels = np.asarray(picture).astype(np.float32)
    laid = GREY + (pixels - GREY + sigma) * alpha
    return Image.fromarray(laid.clip(0, 255).astype(np.uint8))


def matting_input(picture: Image.Image) -> Tensor:
    """What the demo's matting network sees of an RGB picture.

    Returns:
        Shape (1, 3, h, w), v / 127 - 1: of about 1024 x 1024 pixels in all, sides multiples of 64, proportions kept
        as far as that allows.
    """
    scale = (256 / (picture.height * picture.width)) ** 0.5
    return to_model([no_crop(picture, 64 * round(picture.height * scale), 64 * round(picture.width * scale))])


def mattes(pictures: Sequence[Image.Image], alpha: Tensor | None) -> list[np.ndarray]:
    """A matte for each picture: of `alpha`, else the picture's own transparency, else what rembg finds.

    Args:
        pictures: V of them, of any mode.
        alpha: shape (V, h, w), or None.

    Returns:
        V arrays of shape (H, W, 1), float32 in [0, 1], of the sizes of the pictures.

    Raises:
        ImportError: rembg is needed and not installed.
    """
    if alpha is not None:
        return [fit_alpha(a, p.height, p.width) for a, p in zip(alpha, pictures, strict=True)]
    return [np.asarray(_matte(picture), dtype=np.float32)[..., None] / 255 for picture in pictures]


def _matte(picture: Image.Image) -> Image.Image:
    if picture.has_transparency_data:
        return picture.convert("RGBA").getchannel("A")
    try:
        import rembg  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ImportError(
            "the foreground has neither an `alpha` nor a transparency of its own, and rembg, which would find it, is "
            'not installed; give alpha=..., a tensor of shape (V, H, W) in [0, 1], or run: pip install "rembg[cpu]"'
        ) from error
    return rembg.remove(picture.convert("RGB"), only_mask=True)
