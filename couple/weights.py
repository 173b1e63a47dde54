r"""Weight laws: how strongly an edge pulls at each step.

A weight is a number, the paper's lambda, applied at every step; or a law, any callable of a `Level` that
returns a number. The pull on an end is `-sigma' * weight * gradient` (paper Eq. 8), with `sigma'` the noise
left after the step in the state's own convention. A constant is a strength *per step*: the best one falls
about as 1 / steps, and one value means different things to different samplers. `relax` and `rate` are written
in log-SNR, `2 log(alpha / sigma)`, so that they do not depend on the number of steps.

Nothing is evaluated on the last step, where `sigma'` is 0 and no pull lands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from numbers import Real
from typing import ClassVar

_NOISE_LOG_SNR = math.log(1e-4)


@dataclass(frozen=True)
class Level:
    """The noise level a step lands on, as Python floats.

    Attributes:
        progress: share of the steps made before this one, in [0, 1): 0 is the first step.
        alpha: factor of x0 in the state after the step, x = alpha x0 + sigma eps.
        sigma: noise standard deviation after the step, in the state's own convention.
        log_snr: 2 log(alpha / sigma).
        delta_log_snr: how much the step raises log_snr; infinite when it starts at alpha = 0, as flow models
            do.

    Example:
        >>> Level.landing(progress=0.0, alpha=0.0, sigma=1.0, alpha_next=0.5, sigma_next=0.5)
        Level(progress=0.0, alpha=0.5, sigma=0.5, log_snr=0.0, delta_log_snr=inf)
    """

    progress: float
    alpha: float
    sigma: float
    log_snr: float
    delta_log_snr: float

    @classmethod
    def landing(cls, progress: float, alpha: float, sigma: float, alpha_next: float, sigma_next: float) -> Level:
        """Build the level of a step from (alpha, sigma) to (alpha_next, sigma_next)."""
        before, after = _log_snr(alpha, sigma), _log_snr(alpha_next, sigma_next)
        return cls(progress, alpha_next, sigma_next, after, 0.0 if before == after else after - before)


Law = Callable[[Level], float]


@dataclass(frozen=True)
class constant:
    """The same weight at every step: the paper's lambda.

    Per step: twice the steps pull about twice as much, and deterministic samplers (DDIM, flow Euler) keep
    what DDPM forgets. Above 1/2 an undirected pair can step past agreement near the end.

    Args:
        value: the weight, 0 or more.

    Example:
        >>> constant(0.02)(Level(0.5, 0.5, 0.5, 0.0, 0.1))
        0.02
    """

    value: float
    example: ClassVar[str] = "constant(0.02)"

    def __post_init__(self):
        """Refuse what is not a finite number, 0 or more."""
        _check("constant", "value", self.value)

    def __call__(self, level: Level) -> float:
        """Return the value."""
        return self.value


@dataclass(frozen=True)
class rate:
    """`kappa * delta_log_snr`: a pull per unit of log-SNR, so its sum over a run converges as steps grow.

    It may still step past agreement when strong. Log-SNR counts from log(1e-4), alpha / sigma = 1/100: a flow
    model starts at alpha = 0, log-SNR minus infinity, and the sum would otherwise grow without bound with the
    number of steps. Schedules that start with more signal than that (Stable Diffusion: log-SNR -5.4; EDM's
    sigma = 80: -8.8) never notice. A step that lowers the SNR does not pull.

    Args:
        kappa: weight per unit of log-SNR, 0 or more.

    Example:
        >>> rate(0.5)(Level(0.5, 0.5, 0.5, log_snr=0.0, delta_log_snr=0.5))
        0.25
    """

    kappa: float
    example: ClassVar[str] = "rate(0.1)"

    def __post_init__(self):
        """Refuse what is not a finite number, 0 or more."""
        _check("rate", "kappa", self.kappa)

    def __call__(self, level: Level) -> float:
        """Return kappa times the rise of log-SNR above the floor."""
        if level.log_snr - level.delta_log_snr >= _NOISE_LOG_SNR:
            return self.kappa * max(level.delta_log_snr, 0.0)
        return self.kappa * max(level.log_snr - _NOISE_LOG_SNR, 0.0)


@dataclass(frozen=True)
class relax:
    """`c * alpha' / sigma'` with `c = (1 - exp(-2 kappa s'^decay delta_log_snr)) / 2`, `s' = sigma' / alpha'`.

    Moves the implied x0 of each end by the share `c` of the difference. `c` never exceeds 1/2, where a pair meets:
    no single step goes past agreement, and in the limit of a large kappa the samples meet instead of swapping. In
    between, a deterministic sampler keeps every pull and may still end somewhat past agreement: two Gaussians of
    standard deviation 0.5 and gap 2 end at 0.09 with relax(0.3), at -0.42 with relax(1) and at -0.00 with relax(1000)
    in 20 steps of flow Euler (DDIM: 0.09, -0.48, -0.02). A step from pure noise (alpha = 0) has c = 1/2.

    Args:
        kappa: speed of the relaxation, 0 or more.
        decay: how the hold loosens as noise falls. 1 lets go near the end, so that structure is shared and
            detail stays each model's own; 0 holds to the end.

    Example:
        >>> relax(1.0)(Level(0.0, 0.5, 0.5, log_snr=0.0, delta_log_snr=math.inf))
        0.5
    """

    kappa: float
    decay: float = 1.0
    example: ClassVar[str] = "relax(1.0)"

    def __post_init__(self):
        """Refuse what is not a finite number, 0 or more."""
        _check("relax", "kappa", self.kappa)
        _check("relax", "decay", self.decay)

    def __call__(self, level: Level) -> float:
        """Return the weight that moves the implied x0 by the share c."""
        if level.alpha <= 0 or level.delta_log_snr <= 0 or self.kappa == 0:
            return 0.0
        noise = level.sigma / level.alpha
        share = -math.expm1(-2 * self.kappa * noise**self.decay * level.delta_log_snr) / 2
        return share / noise


@dataclass(frozen=True)
class implicit:
    """The implicit (proximal) step of strength lambda: `lambda / (1 + 2 lambda)` for a pair, always below 1/2.

    On a graph the steps of all edges are solved together, in `couple.coupling.pulls`: x0 is replaced by the
    minimiser of its own squared displacement plus lambda times the edges' squared distances, `(I + L)^-1 x0`
    with L the Laplacian of the strengths, so the pull is `-sigma' L (I + L)^-1 x0`. A directed edge enters
    the follower's row alone: `lambda / (1 + lambda)` for a directed pair. The solve needs squared distances
    without masks, between whole trajectories, rows or frames; an `Edge` refuses anything else.

    A cure for one large step; over the many steps of a deterministic sampler it can still add up past
    agreement.

    Args:
        strength: lambda, 0 or more.

    Example:
        >>> implicit(1.5)(Level(0.5, 0.5, 0.5, 0.0, 0.1))
        0.375
    """

    strength: float
    example: ClassVar[str] = "implicit(3.0)"

    def __post_init__(self):
        """Refuse what is not a finite number, 0 or more."""
        _check("implicit", "strength", self.strength)

    def __call__(self, level: Level) -> float:
        """Return the weight of an undirected pair."""
        return self.strength / (1 + 2 * self.strength)


@dataclass(frozen=True)
class window:
    """A weight that acts only while `start <= progress < stop`, and is no edge at all outside.

    Args:
        law: a number or a law.
        start: first progress inside, in [0, 1].
        stop: first progress outside, in [0, 1].

    Example:
        >>> early = window(0.1, 0.0, 0.5)
        >>> early(Level(0.25, 0.1, 0.9, -4.4, 0.3)), early(Level(0.5, 0.5, 0.5, 0.0, 0.3))
        (0.1, 0.0)
    """

    law: float | Law
    start: float
    stop: float
    example: ClassVar[str] = "window(0.1, 0.0, 0.5)"

    def __post_init__(self):
        """Refuse an empty window or one outside [0, 1]."""
        _check_weight("window", "law", self.law)
        if not 0 <= self.start < self.stop <= 1:
            raise ValueError(f"window: 0 <= start < stop <= 1 is needed; got {self.start!r}, {self.stop!r}.")

    def __call__(self, level: Level) -> float:
        """Return the law's weight inside the window, 0 outside."""
        return value(self.law, level) if self.start <= level.progress < self.stop else 0.0


@dataclass(frozen=True)
class linear:
    """A weight that goes from one value to another in proportion to progress.

    Args:
        start_value: number or law at progress 0.
        stop_value: number or law at progress 1.

    Example:
        >>> linear(1.0, 0.0)(Level(0.25, 0.1, 0.9, -4.4, 0.3))
        0.75
    """

    start_value: float | Law
    stop_value: float | Law
    example: ClassVar[str] = "linear(0.1, 0.0)"

    def __post_init__(self):
        """Refuse what is neither a number nor a law."""
        _check_weight("linear", "start_value", self.start_value, blend=True)
        _check_weight("linear", "stop_value", self.stop_value, blend=True)

    def __call__(self, level: Level) -> float:
        """Return the blend of both ends."""
        return _blend(self.start_value, self.stop_value, level.progress, level)


@dataclass(frozen=True)
class cosine:
    """A weight that goes from one value to another along half a cosine: slow, fast, slow.

    Args:
        start_value: number or law at progress 0.
        stop_value: number or law at progress 1.

    Example:
        >>> cosine(0.5, 0.0)(Level(0.5, 0.5, 0.5, 0.0, 0.3))
        0.25
    """

    start_value: float | Law
    stop_value: float | Law
    example: ClassVar[str] = "cosine(0.1, 0.0)"

    def __post_init__(self):
        """Refuse what is neither a number nor a law."""
        _check_weight("cosine", "start_value", self.start_value, blend=True)
        _check_weight("cosine", "stop_value", self.stop_value, blend=True)

    def __call__(self, level: Level) -> float:
        """Return the blend of both ends."""
        return _blend(self.start_value, self.stop_value, (1 - math.cos(math.pi * level.progress)) / 2, level)


@dataclass(frozen=True)
class _Scaled:
    """A law times a number."""

    law: Law
    factor: float

    def __call__(self, level: Level) -> float:
        return self.factor * self.law(level)


def scaled(weight: float | Law, factor: float) -> float | Law:
    """Multiply a weight by a number; of an `implicit` law the strength is multiplied.

    Example:
        >>> scaled(0.3, 0.5), scaled(implicit(3.0), 0.5)
        (0.15, implicit(strength=1.5))
    """
    if not callable(weight):
        return weight * factor
    if isinstance(weight, implicit):
        return implicit(weight.strength * factor)
    if isinstance(weight, window):
        return replace(weight, law=scaled(weight.law, factor))
    return _Scaled(weight, factor)


def value(weight: float | Law, level: Level) -> float:
    """Evaluate a number or a law at a level."""
    return weight(level) if callable(weight) else weight


def is_implicit(weight: float | Law) -> bool:
    """Tell whether a weight is `implicit`, windowed or not."""
    return isinstance(weight, implicit) or (isinstance(weight, window) and is_implicit(weight.law))


def made_with(weight: float | Law, law: type) -> bool:
    """Tell whether a weight is of the class `law`, or a window, blend or multiple of one that is."""
    if isinstance(weight, law):
        return True
    return is_dataclass(weight) and any(made_with(getattr(weight, field.name), law) for field in fields(weight))


def strength(weight: float | Law, level: Level) -> float:
    """Return the strength of an implicit weight at a level: 0 outside its window."""
    if isinstance(weight, window):
        return strength(weight.law, level) if weight.start <= level.progress < weight.stop else 0.0
    assert isinstance(weight, implicit)
    return weight.strength


def _blend(start: float | Law, stop: float | Law, share: float, level: Level) -> float:
    return (1 - share) * value(start, level) + share * value(stop, level)


def _log_snr(alpha: float, sigma: float) -> float:
    # Schedules that start at pure noise may overshoot it by a rounding: TrigFlow's cos(1.5708) is -4e-6.
    if alpha <= 0:
        return -math.inf
    return 2 * math.log(alpha / sigma) if sigma > 0 else math.inf


def _check(law: str, name: str, number: float) -> None:
    if not isinstance(number, Real) or isinstance(number, bool):
        raise TypeError(f"{law}: `{name}` must be a number; got {number!r:.80}.")
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{law}: `{name}` must be a finite number, 0 or more; got {number!r}.")


def _check_weight(law: str, name: str, weight: float | Law, blend: bool = False) -> None:
    if isinstance(weight, type):
        example = getattr(weight, "example", f"{weight.__name__}()")
        raise TypeError(f"{law}: `{name}` is the class {weight.__name__}, not a law. Did you mean {example}?")
    if not callable(weight):
        _check(law, name, weight)
    elif blend and is_implicit(weight):
        raise ValueError(
            f"{law}: an implicit weight is a solve and cannot be blended. Use window(implicit(3.0), 0, 1)."
        )
