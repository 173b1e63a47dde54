"""Measures of coupled samples: how alike they are, how good each is, how well views and frames agree.

* `alignment` and `clips`: places, outlines, edges and large areas of two pictures or videos; no weights.
* `faithfulness` and `clips`: whether a sample shows its prompt, by classifiers that come with the package.
* `fidelity`: PSNR, SSIM, LPIPS and CLIP score.
* `consistency`: views of one scene, by known geometry or as MEt3R; `pointmaps` and `features` are what it stands on.
* `video`: flickering and subject consistency of VBench.

Pictures are tensors (N, 3, H, W) and videos (B, F, 3, H, W), floating, in [0, 1]. Only what needs published weights, or
torchmetrics, needs more than the package, and it says so when it is called.
"""

from couple.metrics.alignment import centroid_distance, edge_correlation, low_frequency_distance, mask_iou, object_mask
from couple.metrics.clips import ClipClassifier, motion_distance, path_distance, per_frame
from couple.metrics.consistency import met3r, reprojection_error
from couple.metrics.faithfulness import RenderClassifier, faithful
from couple.metrics.features import Dino, FeatUp
from couple.metrics.fidelity import clip_score, lpips, psnr, ssim
from couple.metrics.pointmaps import ExactDepth, Mast3r, PointMaps
from couple.metrics.video import subject_consistency, temporal_flicker

__all__ = [
    "ClipClassifier",
    "Dino",
    "ExactDepth",
    "FeatUp",
    "Mast3r",
    "PointMaps",
    "RenderClassifier",
    "centroid_distance",
    "clip_score",
    "edge_correlation",
    "faithful",
    "low_frequency_distance",
    "lpips",
    "mask_iou",
    "met3r",
    "motion_distance",
    "object_mask",
    "path_distance",
    "per_frame",
    "psnr",
    "reprojection_error",
    "ssim",
    "subject_consistency",
    "temporal_flicker",
]
