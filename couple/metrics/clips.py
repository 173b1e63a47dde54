"""Does a video show what its prompt says, and do two videos move together?

Judged by a small classifier that has never seen a generated video: `training/video_classifier.py` trains it on renders
of the bundled video model's world, blurred, brightened and speckled a little.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from couple.bundled import COLOURS, MOTIONS, SPRITES
from couple.metrics.alignment import centroid, centroid_distance, object_mask


class ClipClassifier(nn.Module):
    """Names the shape, the colour and the motion of the one sprite in a video of the bundled world.

    A picture network reads every frame; what it saw is averaged over the frames for shape and colour, and how its
    coarse map of the frame changes tells the motion. `ClipClassifier.bundled()` has the trained weights.
    """

    def __init__(self):
        super().__init__()
        self.frame = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(24, 48, 3, stride=2, padding=1),
            nn.GroupNorm(8, 48),
            nn.SiLU(),
            nn.Conv2d(48, 64, 3, stride=2, padding=1),
            nn.GroupNorm(8, 64),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.SiLU(),
        )
        self.look = nn.Linear(64, len(SPRITES) + len(COLOURS))
        self.where = nn.Conv2d(64, 4, 1)
        self.track = nn.Sequential(
            nn.Conv1d(4 * 64, 64, 3, padding=1),
            nn.SiLU(),
            nn.Conv1d(64, 64, 3, padding=1),
            nn.SiLU(),
            nn.Conv1d(64, 64, 5, padding=2),
            nn.SiLU(),
        )
        self.motion = nn.Linear(64, len(MOTIONS))

    @classmethod
    def bundled(cls) -> "ClipClassifier":
        """The classifier with the weights that come with the package, in evaluation mode."""
        classifier = cls()
        weights = load_file(Path(__file__).parents[1] / "bundled" / "video_classifier.safetensors")
        classifier.load_state_dict({name: value.float() for name, value in weights.items()})
        return classifier.eval()

    def forward(self, videos: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of shape, of colour and of motion.

        Args:
            videos: shape (B, F, 3, 32, 32), float32 in [0, 1]: what a pipeline returns with `output_type="pt"`.

        Returns:
            Tensors (B, 4), (B, 6) and (B, 6), in the order of `SPRITES`, `COLOURS` and `MOTIONS` of `couple.bundled`.
        """
        seen = self.frame(videos.flatten(0, 1) - 0.2).unflatten(0, videos.shape[:2])
        look = self.look(seen.amax((3, 4))).mean(1)
        where = self.where(seen.flatten(0, 1)).flatten(1).unflatten(0, videos.shape[:2])
        motion = self.motion(self.track(where.transpose(1, 2)).mean(2))
        return look[:, : len(SPRITES)], look[:, len(SPRITES) :], motion

    @torch.no_grad()
    def name(self, videos: Tensor) -> list[tuple[str, str, str]]:
        """Colour, shape and motion of each video, such as ("blue", "square", "moves left"); videos as in `forward`."""
        shapes, colours, motions = (logits.argmax(1).tolist() for logits in self(videos))
        return [(COLOURS[c], SPRITES[s], MOTIONS[m]) for c, s, m in zip(colours, shapes, motions, strict=True)]


def per_frame(measure: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor) -> Tensor:
    """Compare videos frame by frame with a measure of pictures or masks.

    Args:
        measure: a function of `couple.metrics.alignment` or `couple.metrics.fidelity`, or any other that takes two
            tensors of N pictures or masks and returns shape (N,).
        first: shape (B, F, ...): videos (B, F, 3, H, W), or masks (B, F, H, W).
        second: the same shape.

    Returns:
        Shape (B, F).

    Example:
        >>> from couple.metrics.alignment import low_frequency_distance
        >>> per_frame(low_frequency_distance, torch.zeros(1, 2, 3, 8, 8), torch.ones(1, 2, 3, 8, 8))
        tensor([[1., 1.]])
    """
    return measure(first.flatten(0, 1), second.flatten(0, 1)).unflatten(0, first.shape[:2])


def path_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean over the frames of the distance in pixels between the centroids of two videos' objects: shape (B,).

    Lower is better; nan where a frame has no object.

    Args:
        first: videos, shape (B, F, 3, H, W), any float range.
        second: as many videos of the same shape.
    """
    return per_frame(centroid_distance, *(_masks(videos) for videos in (first, second))).mean(1)


def motion_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean difference in pixels between the steps that two videos' objects take from frame to frame: shape (B,).

    Lower is better. Only motion counts: objects that move alike at different places are at distance 0, and it is nan
    where a frame has no object.

    Args:
        first: videos, shape (B, F, 3, H, W) with F at least 2, any float range.
        second: as many videos of the same shape.
    """
    paths = [centroid(_masks(videos).flatten(0, 1)).unflatten(0, videos.shape[:2]) for videos in (first, second)]
    return torch.linalg.vector_norm((paths[0] - paths[1]).diff(dim=1), dim=2).mean(1)


def _masks(videos: Tensor) -> Tensor:
    return object_mask(videos.flatten(0, 1)).unflatten(0, videos.shape[:2])
