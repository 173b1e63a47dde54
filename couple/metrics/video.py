"""How steady a video is: temporal flickering and subject consistency as VBench measures them.

Both compare a video with itself, so that a still picture is perfect: report them beside a measure of motion. The
formulas are those of Vchitect/VBench @ 00c4b29c (arXiv 2311.17982); its dimensions average over the prompts of its own
suite, which is left to the caller.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from couple.metrics.ranges import check_range


def temporal_flicker(videos: Tensor) -> Tensor:
    """Steadiness of pixels from frame to frame, in [0, 1], higher is better and 1 is a still: shape (B,).

    `(255 - mean |frame - next frame|) / 255` on frames of 8 bits. VBench applies it to videos of static scenes.

    Args:
        videos: shape (B, F, 3, H, W) with F at least 2, floating, in [0, 1]; rounded to 8 bits here.

    Raises:
        ValueError: the shape is another, or a value is out of range.
    """
    _check(videos)
    frames = (videos * 255).round()
    return (255 - frames.diff(dim=1).abs().mean((1, 2, 3, 4))) / 255


def subject_consistency(videos: Tensor, features: Callable[[Tensor], Tensor]) -> Tensor:
    """Likeness of each frame to the one before and to the first, in [0, 1], higher is better: shape (B,).

    The mean over frames i >= 1 of `(max(0, cos(f_i, f_{i-1})) + max(0, cos(f_i, f_0))) / 2`.

    Args:
        videos: shape (B, F, 3, H, W) with F at least 2, floating, in [0, 1].
        features: from pictures (F, 3, H, W) to one vector each, shape (F, C). VBench's own is
            `couple.metrics.Dino.load("facebook/dino-vitb16").summary`.

    Raises:
        ValueError: the shape is another, or a value is out of range.
    """
    _check(videos)
    scores = []
    for video in videos:
        seen = features(video)
        before = F.cosine_similarity(seen[1:], seen[:-1], dim=1).clamp_min(0)
        first = F.cosine_similarity(seen[1:], seen[:1], dim=1).clamp_min(0)
        scores.append((before + first).mean() / 2)
    return torch.stack(scores)


def _check(videos: Tensor) -> None:
    if videos.ndim != 5 or videos.shape[1] < 2 or videos.shape[2] != 3 or not videos.is_floating_point():
        raise ValueError(
            f"`videos` has shape {tuple(videos.shape)} and type {videos.dtype}; expected (B, F, 3, H, W), floating, "
            'of 2 frames or more: what a pipeline returns with output_type="pt".'
        )
    check_range("videos", videos)
