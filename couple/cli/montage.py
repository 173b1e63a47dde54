"""Several videos in one: side by side as they run, or a few moments of each on a sheet."""

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from couple.cli.clips import HEIGHT, enlarged
from couple.cli.sheet import Row, contact_sheet

Clip = Sequence[Image.Image]

# Heights of a picture in pixels: at most on the side-by-side video; at least and at most on the sheet.
_BESIDE, _SHEET, _SHEET_MOST = 384, 128, 192
_FRAMES_ON_SHEET = 6


def side_by_side(
    clips: Mapping[str, Sequence[Clip]], prompts: Sequence[str], notes: Mapping[str, str] | None = None
) -> list[Image.Image]:
    """A video of all videos, frame by frame: prompts across, one row for each way of sampling them.

    Args:
        clips: For the name of each row one clip a prompt; all clips are of one length.
        prompts: One for each column.
        notes: A short fact for each row, shown under its name.
    """
    height = min(enlarged(_any(clips)[0], HEIGHT).height, _BESIDE)

    def moment(k: int) -> Image.Image:
        rows = [
            Row(row, (notes or {}).get(row, ""), [enlarged(clip[k], HEIGHT) for clip in clips[row]]) for row in clips
        ]
        return contact_sheet(rows, prompts, height=height)

    return [moment(k) for k in range(len(_any(clips)))]


def frames_sheet(clips: Mapping[str, Sequence[Clip]], prompts: Sequence[str]) -> Image.Image:
    """A few moments of all videos: time runs across, one row for each video; arguments as for `side_by_side`."""
    length = len(_any(clips))
    shown = np.linspace(0, length - 1, min(length, _FRAMES_ON_SHEET)).round().astype(int).tolist()
    rows = [
        Row(row, prompt, [enlarged(clip[k], _SHEET) for k in shown], apart=i == 0)
        for row in clips
        for i, (prompt, clip) in enumerate(zip(prompts, clips[row], strict=True))
    ]
    height = min(rows[0].pictures[0].height, _SHEET_MOST)
    return contact_sheet(rows, [f"frame {k + 1}" for k in shown], height=height)


def _any(clips: Mapping[str, Sequence[Clip]]) -> Clip:
    return next(iter(clips.values()))[0]
