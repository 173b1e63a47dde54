"""Posed pictures of a scene: cameras, the files that hold them, and edits that move things in them."""

from couple.scenes.cameras import Cameras, intrinsics, orbit
from couple.scenes.loading import load
from couple.scenes.scene import Scene, Split
from couple.scenes.transforms import save

__all__ = ["Cameras", "Scene", "Split", "intrinsics", "load", "orbit", "save"]
