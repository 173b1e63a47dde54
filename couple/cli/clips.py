"""Videos as files: mp4 for players, GIF for pages, small pictures enlarged so that they can be watched.

Enlarged pixels stay square and hard: what is shown is what was sampled. The same frames give the same bytes.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import imageio.v3
import numpy as np
from PIL import Image

# x264 at a rate where edges of enlarged pixels stay clean. Players guess the colours of a file that does not name its
# matrix. One thread and no version marks make the file repeatable.
_X264 = ["-crf", "12", "-preset", "medium", "-threads", "1"]
_COLOURS = ["-vf", "scale=out_color_matrix=bt709:out_range=tv"]
_COLOURS += ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
_REPEATABLE = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1", "-movflags", "+faststart"]

#: A clip is at least that high, in pixels.
HEIGHT = 256

# Browsers show a GIF frame of less than this for a tenth of a second.
_SHORTEST_GIF_FRAME = 20


def enlarged(picture: Image.Image, height: int) -> Image.Image:
    """The picture with its pixels repeated a whole number of times until it is at least that high."""
    factor = -(-height // picture.height)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def write_mp4(path: Path, frames: Sequence[Image.Image], fps: float) -> None:
    """Write frames of one size, enlarged, as H.264 in yuv420p, which every player and browser shows.

    An odd width or height is made even by repeating the last column or row.
    """
    stack = np.stack([np.asarray(enlarged(frame.convert("RGB"), HEIGHT)) for frame in frames])
    odd = [(0, 0), (0, stack.shape[1] % 2), (0, stack.shape[2] % 2), (0, 0)]
    imageio.v3.imwrite(
        path,
        np.pad(stack, odd, mode="edge"),
        plugin="FFMPEG",
        fps=fps,
        codec="libx264",
        pixelformat="yuv420p",
        quality=None,
        macro_block_size=1,
        ffmpeg_log_level="error",
        output_params=[*_X264, *_COLOURS, *_REPEATABLE],
    )


def write_gif(path: Path, frames: Sequence[Image.Image], fps: float) -> None:
    """Write frames of one size, enlarged, as a GIF that repeats for ever, in one palette so that nothing flickers."""
    rgb = [frame.convert("RGB") for frame in frames]
    palette = Image.fromarray(np.concatenate([np.asarray(frame) for frame in rgb])).quantize(256)
    # Dots that mix colours hide steps between them in a large picture, but show when they are enlarged.
    dither = Image.Dither.NONE if rgb[0].height < HEIGHT else Image.Dither.FLOYDSTEINBERG
    indexed = [enlarged(frame.quantize(palette=palette, dither=dither), HEIGHT) for frame in rgb]
    # A GIF counts hundredths of a second; rounding the ends of the frames, not their lengths, keeps the sum right.
    ends = [round(100 * k / fps) * 10 for k in range(len(frames) + 1)]
    durations = [max(end - start, _SHORTEST_GIF_FRAME) for start, end in pairwise(ends)]
    indexed[0].save(path, save_all=True, append_images=indexed[1:], duration=durations, loop=0)
