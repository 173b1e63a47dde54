"""MV-Adapter: several views of one object at once, from a prompt (t2mv) or from a picture as well (i2mv).

Huang et al., arXiv 2412.03632; huanngzh/MV-Adapter@4277e001. An ordinary Stable Diffusion 2.1 or SDXL UNet gets more
attention beside each of its self-attentions: along the rows of all views, and to a reference picture. Code and weights
are Apache-2.0; the base models keep their own licences.
"""

from couple.backends.mv_adapter.cameras import camera_map, rig
from couple.backends.mv_adapter.loading import (
    I2MV_SD21,
    I2MV_SDXL,
    T2MV_SD21,
    T2MV_SDXL,
    load_adapter,
    load_pipeline,
)
from couple.backends.mv_adapter.pipeline import MVAdapterPipeline
from couple.backends.mv_adapter.pipeline_xl import MVAdapterXLPipeline
from couple.backends.mv_adapter.reference import framed
from couple.backends.mv_adapter.schedule import shifted
from couple.backends.mv_adapter.unet import MultiViewUNet, ReferenceUNet

__all__ = [
    "I2MV_SD21",
    "I2MV_SDXL",
    "T2MV_SD21",
    "T2MV_SDXL",
    "MVAdapterPipeline",
    "MVAdapterXLPipeline",
    "MultiViewUNet",
    "ReferenceUNet",
    "camera_map",
    "framed",
    "load_adapter",
    "load_pipeline",
    "rig",
    "shifted",
]
