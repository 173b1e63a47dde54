"""Real diffusers pipelines at tiny size, built from configs with random weights: CPU, float32, no download.

A `Family` is one pipeline class in one realistic setting. `family.pipeline()` builds it once per session, so
every test that asks for it gets the *same loaded object* (equal weights at another memory alignment may take
another GEMM path and differ in the last bit). `family.arguments(k)` are the keyword arguments of the k-th
call, with its own prompt and a fresh generator, because a generator is used up by a call.
"""

from tests.tiny import flow_images, magic_fixup, mv_adapter, mvdream, relighting, seva, stable_diffusion, videos
from tests.tiny.building import Family

#: Pictures of several views of one scene.
MULTI_VIEW: dict[str, Family] = {**seva.FAMILIES, **mvdream.FAMILIES, **mv_adapter.FAMILIES}
#: Editors of single pictures that are no stock pipelines.
EDITORS: dict[str, Family] = {**relighting.FAMILIES, **magic_fixup.FAMILIES}
FAMILIES: dict[str, Family] = {
    **stable_diffusion.FAMILIES,
    **flow_images.FAMILIES,
    **videos.FAMILIES,
    **MULTI_VIEW,
    **EDITORS,
}

__all__ = ["EDITORS", "FAMILIES", "MULTI_VIEW", "Family"]
