"""IC-Light: Stable Diffusion 1.5 that relights a foreground by a prompt ("fc"), or to fit a background ("fbc").

The published weights are offsets to a UNet of Stable Diffusion 1.5 whose first convolution was widened by four
channels for each condition. Source: lllyasviel/IC-Light@bcf3f29c; weights: `lllyasviel/ic-light`,
creativeml-openrail-m.
"""

from couple.backends.ic_light.pipeline import IcLightPipeline
from couple.backends.ic_light.published import OFFSETS, from_published
from couple.backends.relighting import widen_conv_in

__all__ = ["OFFSETS", "IcLightPipeline", "from_published", "widen_conv_in"]
