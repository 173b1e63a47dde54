"""Stable Virtual Camera: novel views of a scene, from pictures with known cameras.

The network, its pipeline, and the schedulers that drive it. Weights, code and outputs of the original are under the
Stability AI Non-Commercial License; none of them is in this package.
"""

from couple.backends.seva.model import SevaModel
from couple.backends.seva.pipeline import V1_0, V1_1, SevaOutput, SevaPipeline
from couple.backends.seva.schedule import native_scheduler, native_sigmas, shared_scheduler

__all__ = [
    "V1_0",
    "V1_1",
    "SevaModel",
    "SevaOutput",
    "SevaPipeline",
    "native_scheduler",
    "native_sigmas",
    "shared_scheduler",
]
