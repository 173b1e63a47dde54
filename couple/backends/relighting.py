"""What the relighting editors share: pictures read in, a first convolution widened, one guided loop.

IC-Light and Neural Gaffer are Stable Diffusion UNets whose first convolution sees condition latents beside the noisy
ones. A batch is a set of pictures: row v is view v, with a condition of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor, nn

from couple.backends.output import OUTPUT_TYPES
from couple.schedulers.reading import step_options


def widen_conv_in(unet: UNet2DConditionModel, in_channels: int) -> UNet2DConditionModel:
    """Let the first convolution of `unet` see `in_channels` channels, in place; the new columns are zero.

    The widened network returns what it returned before, whatever the new channels hold. One that already sees that
    many is left as it is.

    Args:
        unet: any precision and device; its `config.in_channels` follows.
        in_channels: at least as many as now.

    Returns:
        The same `unet`.

    Raises:
        ValueError: the convolution sees more channels already.
    """
    conv = unet.conv_in
    missing = in_channels - conv.in_channels
    if missing < 0:
        raise ValueError(
            f"the first convolution sees {conv.in_channels} channels already, more than the {in_channels} asked for; "
            "load the UNet of the base model."
        )
    if missing:
        old = conv.weight
        columns = old.new_zeros(old.shape[0], missing, *old.shape[2:])
        conv.weight = nn.Parameter(torch.cat([old.detach(), columns], dim=1), requires_grad=old.requires_grad)
        conv.in_channels = in_channels
        unet.register_to_config(in_channels=in_channels)
    return unet


def pictures(given: Any, name: str) -> list[Image.Image]:
    """Read pictures.

    Args:
        given: a PIL picture, a list of them, or a tensor of shape (V, 3, H, W) in [0, 1].
        name: what messages call it.

    Returns:
        PIL pictures, one for each row, in the mode they came in; those of a tensor are RGB.

    Raises:
        TypeError: it is something else.
        ValueError: there is none, or a tensor has another shape or range.
    """
    if isinstance(given, Image.Image):
        return [given]
    if isinstance(given, Tensor):
        return _from_tensor(given, name)
    if not isinstance(given, Sequence) or not all(isinstance(picture, Image.Image) for picture in given):
        raise TypeError(
            f"`{name}` must be PIL pictures or a tensor of shape (V, 3, H, W) in [0, 1]; got {type(given).__name__}."
        )
    if not given:
        raise ValueError(f"`{name}` is empty; give one picture for each view.")
    return list(given)


def _from_tensor(given: Tensor, name: str) -> list[Image.Image]:
    if given.ndim != 4 or given.shape[1] != 3 or not given.numel():
        raise ValueError(f"`{name}` has shape {tuple(given.shape)}; a tensor of pictures has shape (V, 3, H, W).")
    check_unit(given, name)
    pixels = given.float().mul(255).round().to(torch.uint8)
    return [Image.fromarray(row) for row in pixels.permute(0, 2, 3, 1).cpu().numpy()]


def check_unit(values: Tensor, name: str) -> None:
    """Raise ValueError unless all `values` are in [0, 1]; a NaN is not."""
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"`{name}` must be in [0, 1] and goes from {float(values.min()):.3g} to {float(values.max()):.3g}; "
            "divide 8-bit values by 255."
        )


def one_each(values: list[Any], count: int, name: str) -> list[Any]:
    """Return one value for each of `count` pictures: those given, or the only one given for all.

    Raises:
        ValueError: there are neither one nor `count`.
    """
    if len(values) not in (1, count):
        raise ValueError(f"`{name}` has {len(values)} entries for {count} pictures; give one for all, or {count}.")
    return values * count if len(values) == 1 else values


def check_call(pipeline: Any, shape: tuple[int, ...], latents: Tensor | None, generator: Any, output_type: str) -> None:
    """Check what a call to an editor has in common with a call to the other, before any network runs.

    Args:
        pipeline: whose call it is.
        shape: (V, 3, H, W) of the pictures to be made.
        latents: the noise given, or None.
        generator: a generator, a list of them, or None.
        output_type: of the answer.

    Raises:
        ValueError: a size is not a multiple of the autoencoder's, or latents, generators or output type do not fit.
    """
    count, _, height, width = shape
    factor = pipeline.vae_scale_factor
    if min(height, width) < factor or height % factor or width % factor:
        raise ValueError(
            f"height {height} and width {width} must be multiples of {factor}, e.g. "
            f"height={max(height // factor, 1) * factor}, width={max(width // factor, 1) * factor}."
        )
    wanted = latent_shape(pipeline, shape)
    if latents is not None and tuple(latents.shape) != wanted:
        raise ValueError(f"`latents` has shape {tuple(latents.shape)}; these pictures need {wanted}.")
    if isinstance(generator, list) and len(generator) != count:
        raise ValueError(f"`generator` is a list of {len(generator)} for {count} pictures; give one, or {count}.")
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"`output_type` is {output_type!r}; it must be one of {', '.join(OUTPUT_TYPES)}.")


def latent_shape(pipeline: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the latents of pictures of shape (V, 3, H, W)."""
    count, _, height, width = shape
    factor = pipeline.vae_scale_factor
    return (count, pipeline.unet.config.out_channels, height // factor, width // factor)


def denoise(
    pipeline: Any,
    latents: Tensor | None,
    condition: Tensor,
    context: Tensor,
    *,
    shape: tuple[int, ...],
    guidance_scale: float,
    generator: Any,
) -> Tensor:
    """Run the denoising loop over `pipeline.scheduler.timesteps`.

    Args:
        pipeline: has `unet`, `scheduler` and a progress bar.
        latents: unit noise of shape (V, C, h, w); drawn from `generator` if None.
        condition: latents for the channels behind the noisy ones: V rows, or with guidance 2V, without and then with
            the condition.
        context: of the cross-attention, shape (V or 2V, tokens, width).
        shape: (V, 3, H, W) of the pictures to be made.
        guidance_scale: of classifier-free guidance; plays no part in V rows.
        generator: of the noise, for the start and for stochastic schedulers.

    Returns:
        Clean latents, scaled, shape (V, C, h, w).
    """
    scheduler = pipeline.scheduler
    if latents is None:
        latents = randn_tensor(
            latent_shape(pipeline, shape), generator=generator, device=context.device, dtype=context.dtype
        )
    state = latents.to(context) * scheduler.init_noise_sigma
    noise = step_options(scheduler, generator=generator)
    for t in pipeline.progress_bar(scheduler.timesteps):
        seen = scheduler.scale_model_input(state, t)
        output = guided_output(pipeline.unet, seen, t, condition, context, guidance_scale)
        state = scheduler.step(output, t, state, **noise, return_dict=False)[0]
    return state


def guided_output(
    unet: UNet2DConditionModel, x: Tensor, t: Tensor, condition: Tensor, context: Tensor, guidance_scale: float
) -> Tensor:
    """Evaluate the network at V noisy latents `x`, guided if `condition` and `context` have 2V rows (`denoise`)."""
    copies = len(context) // len(x)
    seen = torch.cat([x.repeat(copies, 1, 1, 1), condition], dim=1)
    output = unet(seen, t, encoder_hidden_states=context, return_dict=False)[0]
    if copies == 1:
        return output
    without, given = output.chunk(2)
    return without + guidance_scale * (given - without)
