"""What is measured of an edited scene: how good the edit is, and whether the views agree.

Neither is enough alone. A scene that is left as it was agrees with itself perfectly, and views edited one by one may
each be fine.
"""

from __future__ import annotations

from torch import Tensor

from couple.metrics.consistency import reprojection_error
from couple.metrics.fidelity import psnr, ssim
from couple.reproduce.scenes import Case


def measured(case: Case, pictures: Tensor, *, exactly: bool = False) -> dict[str, float]:
    """Measure an edit.

    Args:
        case: the scene.
        pictures: its edited views, shape (V, 3, H, W), in [0, 1].
        exactly: compare with the one true edit that the multi-view model was shown a view of, in place of the nearest.

    Returns:
        Means over the views: "psnr" in dB and "ssim", against a true edit; "error", the reprojection error, and
        "change", the mean absolute difference to the scene before the edit, both in 0 to 255.
    """
    true = case.truth if exactly else case.nearest(pictures)
    return {
        "psnr": float(psnr(pictures, true).clamp(max=99.0).mean()),
        "ssim": float(ssim(pictures, true).mean()),
        "error": float(reprojection_error(pictures, case.depth, case.cameras)),
        "change": 255 * float((pictures - case.pictures).abs().mean()),
    }
