"""What happens when calls meet at a step: the coupling, and what it is compared with.

A method is given to `couple.sample(..., method=...)`. All of them run on the same engine, with the same pipelines,
schedulers, guidance and seeds:

* `Coupled` (the default): states of their own, pulled towards each other.
* `ScoreAverage`: one state, moved by the average of all predictions (Liu et al. 2022).
* `ScoreAverageMCMC`: the same, with Langevin corrections at every noise level (Du et al. 2023).
* `SyncTweedies`: states of their own, stepped with averaged predictions (Kim et al. 2024).
* `MultiDiffusion`: states of their own, averaged after every step (Bar-Tal et al. 2023).

To all but the first, an edge says what two trajectories have in common: it joins two trajectories or two pieces of
them of one shape (`a[k]`, `a.frames(k)`, `maps.crop`, a `mask` of zeros and ones), and what is joined, directly or over
others, is averaged. Its weight is a switch, positive or 0 (`weights.window(1, 0, 0.5)` lets go half way); how much each
trajectory counts is the method's `shares`.

Other baselines need no method, because they are plain calls, with `couple.sample` or without: the editor alone on each
picture, a multi-view model given one edited picture, and SDEdit (Meng et al. 2022), which is any image-to-image
pipeline of diffusers at some `strength`:

    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(...)
    edited = pipe("a winter scene", image=pictures, strength=0.6, generator=torch.Generator().manual_seed(0)).images
"""

from couple.methods.averaging import MultiDiffusion, ScoreAverage, SyncTweedies
from couple.methods.coupled import Coupled
from couple.methods.langevin import ScoreAverageMCMC

__all__ = ["Coupled", "MultiDiffusion", "ScoreAverage", "ScoreAverageMCMC", "SyncTweedies"]
