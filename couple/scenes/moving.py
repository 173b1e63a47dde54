"""An object of a scene moved and turned, from the pictures, depths and masks that the scene has on disk.

What happens to the pixels is said in `couple.scenes.edits`; here the object is found and its move written as a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from couple.scenes.cameras import unproject
from couple.scenes.edits import CoarseEdit, move_object, spread_mask
from couple.scenes.pictures import to_tensor
from couple.scenes.scene import Scene


def moved(scene: Scene, shift: Sequence[float], degrees: float = 0.0) -> CoarseEdit:
    """Move the object under the masks of a scene, the same way in every picture.

    Args:
        scene: every frame has a depth; every frame has a mask, or one has and it is carried to the others by depth.
        shift: where to, along the world's x, y and z, in units of the scene.
        degrees: turn about the vertical through the middle of the object, anticlockwise seen from above. The world's
            z axis points up.

    Raises:
        FileNotFoundError: a file is gone.
        ValueError: depths or masks are missing or empty, or do not fit.
    """
    depths = scene.distances()
    masks = object_masks(scene, depths)
    seen = unproject(depths, scene.cameras)[masks]
    if not len(seen):
        raise ValueError("the masks of these views are empty; there is no object to move.")
    middle = (seen.amin(0) + seen.amax(0)) / 2
    transform = rigid_move(shift, degrees, middle)
    return move_object(to_tensor(scene.pictures()), depths, masks, scene.cameras, transform)


def object_masks(scene: Scene, depths: Tensor) -> Tensor:
    """The masks of all frames, shape (V, H, W), bool; those that are missing are made from the first by depth."""
    given = [i for i, mask in enumerate(scene.masks) if mask is not None]
    if not given:
        raise ValueError("no view has a mask that shows the object; name one as `mask_path` of its frame.")
    if len(given) == len(scene):
        return torch.stack([scene.mask(i) for i in given])
    return spread_mask(scene.mask(given[0]), given[0], depths, scene.cameras)


def rigid_move(shift: Sequence[float], degrees: float, middle: Tensor) -> Tensor:
    """A turn about the vertical through `middle`, shape (3,), and then a shift; shape (4, 4), float64.

    Example:
        >>> rigid_move((1.0, 0.0, 0.0), 180.0, torch.tensor([2.0, 0.0, 0.0]))[:3, 3].round(decimals=6).tolist()
        [5.0, 0.0, 0.0]
    """
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    transform = torch.eye(4, dtype=torch.float64)
    transform[:2, :2] = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=torch.float64)
    middle = middle.double()
    transform[:3, 3] = middle - transform[:3, :3] @ middle + torch.tensor(list(shift), dtype=torch.float64)
    return transform
