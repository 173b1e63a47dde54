"""What does coupling a pair cost, against no coupling and against what stock diffusers offers in its place?

The sides of each row: the same engine without edges; two stock calls, one after the other, with merged forwards and
without; one stock call with both prompts; and that call with a callback that rebuilds the clean predictions from
successive latents, which is as near as a stock pipeline comes to coupling (flow Euler only). In bfloat16 the rebuilt
pull is compared with the exact one, and so is ours.

    python -m benchmarks.overhead --subjects flux sd21 wan
"""

from __future__ import annotations

import torch
from torch import Tensor

import couple
from benchmarks import harness
from benchmarks.models import SUBJECTS, Subject, flux
from couple.engine.loop import Meeting
from couple.methods import Coupled

WEIGHT = 0.05


class Rebuilding:
    """The stock peer: a `callback_on_step_end` that pulls two rows of a flow Euler call together."""

    def __init__(self, latents: Tensor) -> None:
        """Keep the state that the call starts from."""
        self.before = latents
        self.pulls: list[Tensor] = []

    def __call__(self, pipeline, step: int, timestep: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Called with the state landed on; returns the pulled one."""
        here, landed = pipeline.scheduler.sigmas[step : step + 2].to(self.before.device)
        latents, before = values["latents"], self.before.float()
        x0 = before - here * (latents.float() - before) / (landed - here)
        self.pulls.append(landed * WEIGHT * (x0.flip(0) - x0))
        self.before = (latents.float() + self.pulls[-1]).to(latents.dtype)
        return {"latents": self.before}


class Watched(Coupled):
    """The coupling, with the relative error of every pull against the one of the same predictions in float64."""

    def __init__(self) -> None:
        """Start without errors."""
        self.errors: list[float] = []

    def meet(self, meeting: Meeting) -> None:
        """Couple, and compare."""
        a, b = (
            arrival.sample.double() - arrival.levels.sigma * arrival.model_output.double() for arrival in meeting.due
        )
        sigma = meeting.due[0].level.sigma
        super().meet(meeting)
        if meeting.due[0].pull is not None:
            self.errors.append(_error(meeting.due[0].pull, sigma * WEIGHT * (b - a)))


def programs(subject: Subject) -> dict[str, tuple[harness.Program, harness.Program]]:
    """Both sides of every row, the base first."""

    def apart() -> None:
        for k in (0, 1):
            subject.pipeline(**subject.call(k))

    def together() -> None:
        subject.pipeline(**subject.calls(2))

    def pair(weight: float | None, max_batch: int | None = None) -> harness.Program:
        def run() -> None:
            a, b = subject.trajectories(2)
            edges = [] if weight is None else couple.pair(a, b, weight=weight)
            couple.sample([a, b], edges, max_batch=max_batch, progress=False)

        return run

    rows = {
        "coupled over uncoupled": (pair(None), pair(WEIGHT)),
        "coupled over uncoupled, unmerged": (pair(None, 1), pair(WEIGHT, 1)),
        "pair over two stock calls": (apart, pair(WEIGHT)),
        "pair over two stock calls, unmerged": (apart, pair(WEIGHT, 1)),
        "pair over one stock call of two prompts": (together, pair(WEIGHT)),
    }
    if "Flux" in type(subject.pipeline).__name__:

        def rebuilt() -> None:
            latents = noise(subject)
            subject.pipeline(**subject.calls(2, latents=latents), callback_on_step_end=Rebuilding(latents))

        rows["pair over one stock call with the callback"] = (rebuilt, pair(WEIGHT))
    return rows


def noise(subject: Subject) -> Tensor:
    """States of two prompts for a Flux pipeline, packed."""
    weight, side = next(subject.network.parameters()), subject.settings["height"] // 16
    shape = (2, side * side, subject.network.config.in_channels)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)


def pull_errors(subject: Subject) -> dict[str, list[float]]:
    """Relative error of the pull at every step but the last, of the stock callback and of the coupling, in bfloat16."""
    latents = noise(subject)
    callback, exact = Rebuilding(latents), []

    def read(module, args, kwargs, output) -> None:
        state, sigma = kwargs["hidden_states"].double(), subject.pipeline.scheduler.sigmas[len(exact)]
        x0 = state - sigma * output[0].double()
        exact.append(subject.pipeline.scheduler.sigmas[len(exact) + 1] * WEIGHT * (x0.flip(0) - x0))

    hook = subject.network.register_forward_hook(read, with_kwargs=True)
    subject.pipeline(**subject.calls(2, latents=latents), callback_on_step_end=callback)
    hook.remove()
    watched = Watched()
    a, b = subject.trajectories(2)
    couple.sample([a, b], couple.pair(a, b, weight=WEIGHT), method=watched, progress=False)
    rebuilt = [_error(pull, true) for pull, true in zip(callback.pulls[:-1], exact[:-1], strict=True)]
    return {"stock callback": rebuilt, "couple": watched.errors}


def _error(pull: Tensor, exact: Tensor) -> float:
    return float((pull.double() - exact).norm() / exact.norm())


def main() -> None:
    """Print one JSON line a row."""
    chosen = harness.options(__doc__, subjects=[*SUBJECTS])
    for name in chosen.subjects:
        subject = SUBJECTS[name](chosen.full)
        for case, (base, other) in programs(subject).items():
            before, after = (harness.count(program, [subject.network]) for program in (base, other))
            ratio = harness.compare(base, other, chosen.pairs)
            relative = {
                "flops_ratio": after.flops / before.flops,
                "operations_ratio": after.operations / before.operations,
                "syncs_added": after.syncs - before.syncs,
            }
            harness.report("overhead", f"{name}: {case}", ratio, after, **relative)
    subject = flux(chosen.full, num_inference_steps=28)
    subject.network.to(torch.bfloat16)
    for side, errors in pull_errors(subject).items():
        first, middle = errors[0], sorted(errors)[len(errors) // 2]
        harness.report("overhead", f"flux: error of the pull, bfloat16, {side}", first=first, median=middle)


if __name__ == "__main__":
    main()
