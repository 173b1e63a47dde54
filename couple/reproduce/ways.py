"""The ways of editing all views of a scene that are compared: single models, baselines, and the coupling.

All run on one engine, from the same seeds, with the same guidance and numbers of steps. The multi-view model is given
one edited view, and where two models work together row k of its state meets row k of the editor's. What is kept is the
multi-view sample; the two methods with a shared state have one sample only.

MultiDiffusion is not among them: where both models have one noise its samples are those of Liu et al. to rounding,
because a DDPM step is linear in the prediction, so that averages of states and of predictions are the same.

A *setting* is a mapping from names to numbers. Those of baselines: `share` of the multi-view model in an average;
`moves` of the Markov chain at each noise level and their `size`, in units of the noise level squared; `start`, the
share of the noise levels that SDEdit begins at. Those of the coupling: `weight`, and `decay` of the law `relax`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

import couple
from couple import methods, weights
from couple.backends.seva import SevaPipeline
from couple.backends.seva.images import encode
from couple.reproduce.models import Model, Models
from couple.reproduce.scenes import Case

Setting = Mapping[str, float]

LAWS = ("constant", "rate", "relax", "implicit")
"""Ways that couple, named for their weight law."""
BASELINES = ("SDEdit", "Liu et al.", "Du et al.", "SyncTweedies")
"""Ways that let both models work together otherwise."""
WAYS = ("input", "per-image", "image-to-multi-view", *BASELINES, *LAWS)
"""All ways; "input" is the scene as it was."""

_SHARED = ("Liu et al.", "Du et al.")


class Edit:
    """One scene edited with one seed, in any of `WAYS`.

    Args:
        models: the models.
        case: the scene.
        seed: of all noise. The editor's is the same in every way, so that the edit that the multi-view model is
            given and the editor that it meets begin alike.
        reference: the edited first view, shape (3, H, W), in [0, 1]; the editor's own sample if None.
    """

    def __init__(self, models: Models, case: Case, seed: int, reference: Tensor | None = None):
        self._models, self._case, self._seed = models, case, seed
        self._given = reference

    def pictures(self, way: str, setting: Setting) -> Tensor:
        """Edit the scene.

        Args:
            way: one of `WAYS`.
            setting: its numbers, see above.

        Returns:
            All views, shape (V, 3, H, W), in [0, 1].

        Raises:
            FloatingPointError: the samples ran away, which strong couplings do.
        """
        if way == "input":
            return self._case.pictures
        if way == "per-image":
            return self.per_image
        with warnings.catch_warnings():
            # That a coupling pulls too hard is a finding here.
            warnings.simplefilter("ignore", RuntimeWarning)
            if way == "image-to-multi-view":
                return self._sampled(self._views("views"))
            if way == "SDEdit":
                return self._sampled(self._noised_edits(setting["start"]))
            return self._together(way, setting)

    @cached_property
    def per_image(self) -> Tensor:
        """What the editor makes of each view alone, shape (V, 3, H, W)."""
        return self._sampled(self._editor("editor"))

    def _together(self, way: str, setting: Setting) -> Tensor:
        if way in _SHARED:
            # One state, hence one noise, also of the steps.
            noise = self._noise(1)
            views = self._views("views", latents=noise, generator=self._generator(2))
            editor = self._editor("editor", latents=noise, generator=self._generator(2), output_type="latent")
        else:
            views, editor = self._views("views"), self._editor("editor", output_type="latent")
        law = _law(way, setting) if way in LAWS else 1
        edges = [edge for k in range(len(self._case.cameras)) for edge in couple.pair(views[k], editor[k], weight=law)]
        method = None
        if way not in LAWS:
            shares = {views: setting["share"], editor: 1 - setting["share"]}
            method = self._method(way, setting, shares)
        result = couple.sample([views, editor], edges, method=method, progress=False)
        return _clean(result[views].images)

    def _method(self, way: str, setting: Setting, shares: Mapping[couple.Trajectory, float]) -> Any:
        if way == "Liu et al.":
            return methods.ScoreAverage(shares=shares)
        if way == "Du et al.":
            size = setting["size"]
            return methods.ScoreAverageMCMC(
                generator=self._generator(3),
                steps=int(setting["moves"]),
                step_size=lambda levels: size * float(levels.sigma) ** 2,
                shares=shares,
            )
        return methods.SyncTweedies(shares=shares)

    def _editor(self, name: str, **call: Any) -> couple.Trajectory:
        model = self._models.editors[self._case.editor]
        return self._trajectory(model, name, 0, {**self._case.shown, **call})

    def _views(self, name: str, **call: Any) -> couple.Trajectory:
        return self._trajectory(self._models.views, name, 1, {**self._posed, **call})

    def _noised_edits(self, start: float) -> couple.Trajectory:
        """The multi-view model from the noised edits of the single views on: SDEdit, on the last part of the levels."""
        model = self._models.views
        pipeline, levels = model.pipeline, max(round(start * model.pipeline.scheduler.config.num_train_timesteps), 1)
        betas = pipeline.scheduler.betas[:levels].tolist()
        cut: Any = DDPMScheduler.from_config(pipeline.scheduler.config, trained_betas=betas, num_train_timesteps=levels)
        edits = encode(pipeline.vae, self.per_image * 2 - 1)
        last = torch.full((len(edits),), levels - 1)
        state = cut.add_noise(edits, self._noise(1), last)
        shortened = Model(SevaPipeline(**{**pipeline.components, "scheduler": cut}), model.call)
        steps = max(round(start * self._models.steps), 1)
        return self._trajectory(shortened, "SDEdit", 2, {**self._posed, "latents": state}, steps)

    def _trajectory(
        self, model: Model, name: str, stream: int, call: Mapping[str, Any], steps: int | None = None
    ) -> couple.Trajectory:
        return couple.Trajectory(
            model.pipeline,
            name=name,
            **{
                "generator": self._generator(stream),
                "output_type": "pt",
                **model.call,
                **call,
                "num_inference_steps": steps or self._models.steps,
            },
        )

    @property
    def _posed(self) -> dict[str, Any]:
        """What the multi-view model is shown: the edited first view, and where the others are seen from."""
        cameras = self._case.cameras
        reference = self.per_image[0] if self._given is None else self._given
        return {"images": [reference], "cameras": cameras[[0]], "target_cameras": cameras[1:]}

    def _sampled(self, trajectory: couple.Trajectory) -> Tensor:
        return _clean(couple.sample([trajectory], progress=False)[trajectory].images)

    def _noise(self, stream: int) -> Tensor:
        vae, cameras = self._models.views.pipeline.vae, self._case.cameras
        factor = self._models.views.pipeline.vae_scale_factor
        shape = (len(cameras), vae.config.latent_channels, cameras.height // factor, cameras.width // factor)
        return torch.randn(shape, generator=self._generator(stream))

    def _generator(self, stream: int) -> torch.Generator:
        """Noise of its own for each of the things that draw."""
        return torch.Generator().manual_seed(10 * self._seed + stream)


def _law(way: str, setting: Setting) -> weights.Law:
    weight = setting["weight"]
    if way == "relax":
        return weights.relax(weight, setting.get("decay", 1.0))
    return {"constant": weights.constant, "rate": weights.rate, "implicit": weights.implicit}[way](weight)


def _clean(images: Any) -> Tensor:
    pictures = torch.as_tensor(images).float()
    if not bool(pictures.isfinite().all()):
        raise FloatingPointError("the samples are not finite.")
    return pictures.clamp(0, 1)
