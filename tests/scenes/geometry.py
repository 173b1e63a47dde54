"""The sample scene with depths and masks: a square patch about the origin, facing each camera, before a far ground.

Depths are 16-bit PNG in millimetres and masks 8-bit PNG. `couple` is not imported, so the files cannot share a bug
with the readers.
"""

import numpy as np
from PIL import Image

from tests.scenes import samples

#: Rows and columns of the patch, and how far behind it the ground is, in metres.
ROWS, COLUMNS, BEHIND = slice(10, 23), slice(18, 31), 2.0


def distance(i):
    """How far camera `i` is from the origin."""
    return float(np.linalg.norm(samples.POSITIONS[i]))


def nerfstudio(folder):
    """`samples.nerfstudio`, each picture coloured on the patch alone, with `depth_file_path` and `mask_path`."""
    data = samples.nerfstudio(folder)
    for i, frame in enumerate(data["frames"]):
        pixels = np.full((samples.HEIGHT, samples.WIDTH, 3), 200, np.uint8)
        depth = np.full(pixels.shape[:2], round(1000 * (distance(i) + BEHIND)), np.uint16)
        mask = np.zeros(pixels.shape[:2], np.uint8)
        pixels[ROWS, COLUMNS], mask[ROWS, COLUMNS] = samples.COLOURS[i], 255
        depth[ROWS, COLUMNS] = round(1000 * distance(i))
        depth[:4] = 0  # the sky
        for kind, array in (("images", pixels), ("depth", depth), ("masks", mask)):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(array).save(folder / f"{kind}/{i}.png")
        frame |= {"depth_file_path": f"depth/{i}.png", "mask_path": f"masks/{i}.png"}
    return samples.write(folder, data)
