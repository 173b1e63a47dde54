"""Networks that treat the rows of a batch independently, so that calls can share a forward without being checked."""

from __future__ import annotations

from torch import nn

#: Networks whose calls do not look at each other: rows stay apart, or (multi-view networks) the rows of a call stay
#: together. Each is proven by a test that merges calls and compares.
ROW_INDEPENDENT = frozenset(
    {
        "CogVideoXTransformer3DModel",
        "ControlNetModel",
        "Flux2Transformer2DModel",
        "FluxTransformer2DModel",
        "LTXVideoTransformer3DModel",
        "MVDreamModel",
        "MochiTransformer3DModel",
        "MultiViewUNet",
        "PixArtTransformer2DModel",
        "QwenImageTransformer2DModel",
        "SD3Transformer2DModel",
        "SanaTransformer2DModel",
        "SevaModel",
        "UNet2DConditionModel",
        "WanTransformer3DModel",
    }
)
#: The attention processors these networks have when nothing was exchanged.
ROW_INDEPENDENT_PROCESSORS = frozenset(
    {
        "AttnProcessor",
        "AttnProcessor2_0",
        "CogVideoXAttnProcessor2_0",
        "Flux2AttnProcessor",
        "Flux2ParallelSelfAttnProcessor",
        "FluxAttnProcessor",
        "JointAttnProcessor2_0",
        "LTXVideoAttnProcessor",
        "MVDreamAttnProcessor",
        "MochiAttnProcessor2_0",
        "MultiViewAttention",
        "QwenDoubleStreamAttnProcessor2_0",
        "SanaLinearAttnProcessor2_0",
        "SanaMultiscaleAttnProcessor2_0",
        "SevaAttnProcessor",
        "TextAttention",
        "WanAttnProcessor",
        "XFormersAttnProcessor",
    }
)


def independent(module: nn.Module) -> bool:
    """Tell whether a network, with the attention processors it has now, is known to treat rows independently."""
    if type(module).__name__ not in ROW_INDEPENDENT:
        return False
    return all(
        type(layer.processor).__name__ in ROW_INDEPENDENT_PROCESSORS
        for layer in module.modules()
        if hasattr(layer, "processor")
    )
