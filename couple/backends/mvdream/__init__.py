"""MVDream: text to four views of one object, whose self-attention spans the views (Shi et al., arXiv 2308.16512).

A fine-tuned Stable Diffusion 2.1 base, in its latent space. Views are rows of the batch: the state has shape
(V, 4, h, w).
"""

from couple.backends.mvdream.cameras import camera_vectors, rig
from couple.backends.mvdream.model import MVDreamModel
from couple.backends.mvdream.pipeline import MVDreamPipeline

__all__ = ["MVDreamModel", "MVDreamPipeline", "camera_vectors", "rig"]
