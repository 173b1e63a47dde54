"""Draws the bundled scene: `python training/scene.py` writes a folder that `couple edit` opens if it is given none.

Six views of a block world scene that no training has seen, with depth in millimetres and the masks of one object.
"""

import json
import math
import shutil

import numpy as np
import torch
from PIL import Image

from couple import scenes
from couple.bundled import scene
from couple.bundled.blocks import OBJECTS, random_blocks, random_light, render, ring
from couple.scenes.pictures import to_pictures

SEED = 20_000_021
VIEWS = 6
MASKED = "ball"

if __name__ == "__main__":
    generator = torch.Generator().manual_seed(SEED)
    world, light = random_blocks(1, generator), random_light(1, generator, tint=0.1)
    cameras = ring(torch.deg2rad(12.0 * torch.arange(VIEWS)), math.radians(27))
    drawn = render(world, [light], [cameras], samples=4)[0]
    folder = scene()
    shutil.rmtree(folder, ignore_errors=True)
    file = scenes.save(folder, cameras, to_pictures(drawn.pictures[0]))
    data = json.loads(file.read_text())
    for part in ("depth", "masks"):
        (folder / part).mkdir()
    for k, frame in enumerate(data["frames"]):
        # 0 is "unknown" in such files: the sky and the far ground have no depth.
        depth = drawn.depth[0, k].mul(1000).nan_to_num(posinf=0).numpy().round()
        depth[depth > 65535] = 0
        frame["depth_file_path"] = f"depth/{k:04d}.png"
        Image.fromarray(depth.astype(np.uint16)).save(folder / frame["depth_file_path"])
        frame["mask_path"] = f"masks/{k:04d}.png"
        mask = (drawn.slot[0, k] == OBJECTS.index(MASKED)).numpy()
        Image.fromarray((mask * 255).astype(np.uint8)).save(folder / frame["mask_path"])
    file.write_text(json.dumps(data, indent=1) + "\n")
