"""Neural Gaffer: a diffusion model that relights an object by an environment map.

A UNet of the Zero123 lineage that sees the noisy latents, the picture, and the environment map twice: tone-mapped to
8 bits, and as the logarithm of its radiance. Source: Haian-Jin/Neural_Gaffer@e360bd99; weights:
`coast01/Neural_Gaffer`, MIT.
"""

from couple.backends.neural_gaffer.environment import read_environment_map
from couple.backends.neural_gaffer.pipeline import NeuralGafferPipeline
from couple.backends.neural_gaffer.published import PUBLISHED, from_published
from couple.backends.relighting import widen_conv_in

__all__ = ["PUBLISHED", "NeuralGafferPipeline", "from_published", "read_environment_map", "widen_conv_in"]
