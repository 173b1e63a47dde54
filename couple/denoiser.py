"""A pipeline around a bare denoiser: the shortest loop that `couple.sample` can join.

For networks outside diffusers, and for `ExactDenoiser`. Nothing is encoded, guided or decoded: the state that comes
out of the last step is the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from couple import schedulers
from couple.exact import ExactDenoiser
from couple.schedulers.reading import step_options


class DenoiserPipeline:
    """A denoiser and a diffusers scheduler, callable like a pipeline.

    Args:
        model: a network called as `model(scaled_sample, timestep)`, with the sample scaled as the scheduler wants it
            and a tensor or an object with `.sample` as its output; or an `ExactDenoiser`, whose x0 is put into
            whatever the scheduler expects its model to predict.
        scheduler: any supported diffusers scheduler. It decides the prediction type.

    Attributes:
        model: as given.
        scheduler: as given.

    Raises:
        TypeError: an argument is a class, cannot be called, or has no `step`; while sampling, the network returns
            something else than such an output.
        ValueError: while sampling, an output has another shape than the state.

    Example:
        >>> from diffusers import FlowMatchEulerDiscreteScheduler
        >>> denoiser = ExactDenoiser.gaussian(torch.tensor([2.0, -1.0]), 0.0)
        >>> pipe = DenoiserPipeline(denoiser, FlowMatchEulerDiscreteScheduler())
        >>> pipe((1, 2), num_inference_steps=4, generator=torch.Generator().manual_seed(0)).round(decimals=3)
        tensor([[ 2., -1.]])
    """

    def __init__(self, model: ExactDenoiser | Callable[[Tensor, Tensor], Any], scheduler: Any):
        """Keep both; nothing runs."""
        if isinstance(scheduler, type):
            name = scheduler.__name__
            raise TypeError(f"`scheduler` is the class {name}, not a scheduler. Did you mean {name}()?")
        if not isinstance(model, ExactDenoiser) and (isinstance(model, type) or not callable(model)):
            swapped = hasattr(model, "step")
            fix = "Did you mean DenoiserPipeline(network, scheduler)?" if swapped else "Give network(sample, timestep)."
            raise TypeError(f"`model` must be a network or an ExactDenoiser; got {_named(model)}. {fix}")
        if not hasattr(scheduler, "step"):
            raise TypeError(
                f"`scheduler` must be a diffusers scheduler, which has a `step`; got {_named(scheduler)}. "
                "Give e.g. diffusers.DDIMScheduler()."
            )
        self.model = model
        self.scheduler = scheduler

    @torch.no_grad()
    def __call__(
        self,
        shape: Sequence[int] | None = None,
        *,
        num_inference_steps: int = 50,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        schedule: Mapping[str, Any] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Sample.

        Args:
            shape: (B, ...) of the state; not needed with `latents`.
            num_inference_steps: how many steps, for `scheduler.set_timesteps`.
            generator: for the initial noise and for the noise of stochastic schedulers.
            latents: unit-variance initial noise, instead of drawing it.
            schedule: arguments for `scheduler.set_timesteps` instead of `num_inference_steps`, e.g.
                `{"sigmas": [1.0, 0.5]}` or `{"num_inference_steps": 20, "mu": 1.0}`.
            dtype: of the state, if it is drawn.
            device: of the state, if it is drawn.

        Returns:
            The state after the last step, shape (B, ...).
        """
        if latents is None:
            if shape is None:
                raise ValueError("DenoiserPipeline: give `shape`, e.g. (1, 3, 32, 32), or `latents`.")
            source = "cpu" if generator is None else generator.device
            latents = torch.randn(tuple(shape), generator=generator, dtype=dtype, device=source).to(device)
        self.scheduler.set_timesteps(
            **(schedule or {"num_inference_steps": num_inference_steps}), device=latents.device
        )
        options = step_options(self.scheduler, generator=generator)
        state = latents * getattr(self.scheduler, "init_noise_sigma", 1.0)
        for timestep in self.scheduler.timesteps:
            output = self._predict(state, timestep)
            state = self.scheduler.step(output, timestep, state, **options, return_dict=False)[0]
        return state

    def _predict(self, state: Tensor, timestep: Tensor) -> Tensor:
        if isinstance(self.model, ExactDenoiser):
            level = schedulers.levels(self.scheduler, timestep)
            x0 = self.model.x0(state, float(level.alpha), float(level.sigma))
            return schedulers.from_x0(self.scheduler, x0, timestep, state, level)
        scale = getattr(self.scheduler, "scale_model_input", None)
        output = self.model(state if scale is None else scale(state, timestep), timestep)
        output = output if isinstance(output, Tensor) else getattr(output, "sample", output)
        if not isinstance(output, Tensor):
            raise TypeError(
                f"DenoiserPipeline: the network returned {_named(output)}; it must return a tensor, or an object with "
                "one as `.sample`. Give e.g. lambda sample, timestep: network(sample, timestep)[0]."
            )
        # Some predict a variance too, in as many channels again, which their schedulers split off.
        learned = str(getattr(self.scheduler.config, "variance_type", None)).startswith("learned")
        doubled = (*state.shape[:1], 2 * state.shape[1], *state.shape[2:]) if learned else state.shape
        if output.shape not in (state.shape, doubled):
            raise ValueError(
                f"DenoiserPipeline: the network returned shape {tuple(output.shape)} for a state of "
                f"{tuple(state.shape)}; they must be equal."
            )
        return output


def _named(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"
