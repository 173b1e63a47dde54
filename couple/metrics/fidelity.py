"""How close pictures are to references (PSNR, SSIM, LPIPS) and to their prompts (CLIP score), one value a picture.

The first three are torchmetrics' own, an optional dependency. So is the CLIP score by definition, but torchmetrics 1.9
takes the features of transformers 5 for tensors, which they are not, so the cosine is taken here. LPIPS and CLIP need
weights: they are downloaded once, and where that fails the message says what to fetch and under which licence.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from PIL import Image
from torch import Tensor

from couple.backends.checkpoint import read_checkpoint
from couple.metrics.pretrained import from_hub, from_url
from couple.metrics.ranges import check_range, check_tensor


def psnr(pictures: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, higher is better, inf for equal pictures: shape (N,).

    Args:
        pictures: shape (N, 3, H, W), floating, in [0, 1].
        references: the same shape.

    Raises:
        ValueError: shapes differ or are others, or a value is out of range.
        ModuleNotFoundError: torchmetrics is not installed.
    """
    _check_pair(pictures, references)
    measure = _torchmetrics().peak_signal_noise_ratio
    return measure(pictures, references, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(pictures: Tensor, references: Tensor) -> Tensor:
    """Structural similarity, at most 1, higher is better: shape (N,).

    Wang et al. 2004 with a Gaussian window of 11 x 11 pixels (sigma 1.5), averaged over channels and pixels. As
    torchmetrics has it, borders are mirrored, not left out.

    Args:
        pictures: shape (N, 3, H, W) with H and W at least 11, floating, in [0, 1].
        references: the same shape.

    Raises:
        ValueError: shapes differ or are others, or a value is out of range.
        ModuleNotFoundError: torchmetrics is not installed.
    """
    _check_pair(pictures, references)
    if min(pictures.shape[2:]) < 11:
        raise ValueError(f"pictures of {pictures.shape[2]} x {pictures.shape[3]} are smaller than SSIM's window, 11.")
    values = _torchmetrics().structural_similarity_index_measure(pictures, references, data_range=1.0, reduction="none")
    return values.reshape(len(pictures))


def lpips(pictures: Tensor, references: Tensor, *, net: str = "alex") -> Tensor:
    """Learned perceptual distance (Zhang et al. 2018), 0 or more, lower is better: shape (N,).

    Args:
        pictures: shape (N, 3, H, W) with H and W at least 32, floating, in [0, 1].
        references: the same shape.
        net: "alex" (the authors' choice for measuring), "vgg" or "squeeze".

    Raises:
        ValueError: shapes differ or are others, a value is out of range, or `net` is unknown.
        ModuleNotFoundError: torchmetrics or torchvision is not installed.
        FileNotFoundError: torchvision's weights are not on this machine and cannot be fetched.
    """
    _check_pair(pictures, references)
    if min(pictures.shape[2:]) < 32:
        raise ValueError(
            f"pictures of {pictures.shape[2]} x {pictures.shape[3]} are too small for LPIPS; give 32 x 32."
        )
    measure = _torchmetrics().learned_perceptual_image_patch_similarity
    # torchvision opens its file with pickle; one that opens with `weights_only` holds nothing to run.
    read_checkpoint(_torchvision_weights(net))
    values = measure(pictures, references, net_type=net, reduction="none", normalize=True)
    return values.detach().reshape(len(pictures))


def clip_score(pictures: Tensor, prompts: Sequence[str], *, model: str = "openai/clip-vit-large-patch14") -> Tensor:
    """CLIP score, `max(0, 100 cos(picture, prompt))`, in [0, 100], higher is better: shape (N,).

    Hessel et al. 2021 in the scale of torchmetrics. Values of different models are not comparable; good matches have
    about 30 with the default one.

    Args:
        pictures: shape (N, 3, H, W), floating, in [0, 1]; rounded to 8 bits here.
        prompts: N prompts; what is beyond the model's length (77 tokens) is cut off.
        model: hub id or folder of a `transformers.CLIPModel` with its processor.

    Raises:
        ValueError: a shape is another, a value is out of range, or the counts differ.
        FileNotFoundError: the weights are not on this machine and cannot be fetched.
    """
    from transformers import CLIPModel, CLIPProcessor

    _check("pictures", pictures)
    if len(prompts) != len(pictures) or isinstance(prompts, str):
        raise ValueError(f"{len(pictures)} pictures but {len(prompts)} prompts; give a list of one prompt a picture.")
    clip = from_hub(CLIPModel, model, licence="MIT for those of OpenAI").to(pictures.device)
    processor = from_hub(CLIPProcessor, model, licence="MIT for those of OpenAI")
    inputs = processor(
        text=list(prompts),
        images=[Image.fromarray(array) for array in (pictures * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()],
        return_tensors="pt",
        padding=True,
        truncation=True,
    ).to(pictures.device)
    with torch.no_grad():
        output = clip(**inputs)
    return 100 * (output.image_embeds * output.text_embeds).sum(1).clamp_min(0)


def _torchmetrics() -> ModuleType:
    try:
        from torchmetrics.functional import image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this metric needs {error.name}, which is not installed; run: pip install 'couple[metrics]'"
        ) from error
    return image


def _torchvision_weights(net: str) -> Path:
    """Where torchvision keeps the weights of `net`, downloaded if they are not there."""
    try:
        from torchvision import models  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"LPIPS needs {error.name}, which is not installed; run: pip install {error.name}"
        ) from error
    known = {"alex": models.AlexNet_Weights, "vgg": models.VGG16_Weights, "squeeze": models.SqueezeNet1_1_Weights}
    if net not in known:
        raise ValueError(f"`net` is {net!r}; LPIPS has {', '.join(map(repr, known))}.")
    url = known[net].DEFAULT.url
    # The name of the file ends in the first digits of its hash.
    return from_url(url, licence="BSD-3-Clause", digest=Path(url).stem.split("-")[-1])


def _check_pair(pictures: Tensor, references: Tensor) -> None:
    _check("pictures", pictures)
    _check("references", references)
    if pictures.shape != references.shape:
        raise ValueError(
            f"`pictures` has shape {tuple(pictures.shape)} and `references` {tuple(references.shape)}; they must be "
            "equal, so resize or crop one of them."
        )


def _check(name: str, pictures: Tensor) -> None:
    check_tensor(name, pictures)
    if pictures.ndim != 4 or pictures.shape[1] != 3 or not pictures.is_floating_point():
        raise ValueError(
            f"`{name}` has shape {tuple(pictures.shape)} and type {pictures.dtype}; expected (N, 3, H, W), floating: "
            'what a pipeline returns with output_type="pt".'
        )
    check_range(name, pictures)
