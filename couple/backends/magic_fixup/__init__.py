"""Magic Fixup: turns a coarse edit of a picture (things cut out and moved) into a picture that could be a photograph.

Alzayer et al., ACM Transactions on Graphics 2025, adobe-research/MagicFixup@0607d9fe. `model` is its network,
`pictures` prepares what the network sees, `pipeline` samples, and `published` reads the published weights.
"""

from couple.backends.magic_fixup.model import MagicFixupUNet
from couple.backends.magic_fixup.pipeline import MagicFixupPipeline, scheduler
from couple.backends.magic_fixup.published import PUBLISHED, convert, from_published

__all__ = ["PUBLISHED", "MagicFixupPipeline", "MagicFixupUNet", "convert", "from_published", "scheduler"]
