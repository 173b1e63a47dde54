"""The UNets of MV-Adapter: diffusers' own UNet with the adapter's processors in its attentions.

Classes of their own, so that `save_pretrained` and `from_pretrained` keep the adapter's weights. The keys are those of
the base UNet and, beside every self-attention, `attn1.processor.*` of the published files.
"""

import functools
from typing import Any

# diffusers looks for ModelMixin among the names of this module when it loads a saved pipeline.
from diffusers import ModelMixin, UNet2DConditionModel  # noqa: F401

from couple.backends.mv_adapter.attention import MultiViewAttention, TextAttention


class MultiViewUNet(UNet2DConditionModel):
    """A UNet whose views see each other (t2mv). Arguments and forward are those of `UNet2DConditionModel`.

    Without `cross_attention_kwargs={"views": ...}` it is its base model.
    """

    #: Whether views also attend to a reference picture.
    reference = False

    # The signature of the stock class is what its configs are read by.
    @functools.wraps(UNet2DConditionModel.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        processors: dict[str, Any] = {}
        for name in self.attn_processors:
            place = name.removesuffix(".processor")
            attention: Any = self.get_submodule(place)
            if place.endswith("attn1"):
                processors[name] = MultiViewAttention(place, attention, self.reference)
            else:
                processors[name] = TextAttention()
        self.set_attn_processor(processors)


class ReferenceUNet(MultiViewUNet):
    """A UNet whose views see each other and a reference picture (i2mv)."""

    reference = True
