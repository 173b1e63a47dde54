"""Sample several diffusion or flow-matching trajectories at once and let them pull on each other.

The public names live here and are imported when first used, so that `import couple` costs nothing and brings
in neither torch nor diffusers nor transformers. What each name does is documented where it is defined.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from couple import (
        bundled,
        coupling,
        energies,
        latents,
        maps,
        methods,
        metrics,
        parallel,
        scenes,
        schedulers,
        weights,
    )
    from couple.denoiser import DenoiserPipeline
    from couple.exact import ExactDenoiser
    from couple.graph import Edge, chain, complete, pair, star
    from couple.memory import Placement
    from couple.resume.checkpoint import Checkpoint
    from couple.sampling import Diverged, Result, sample
    from couple.trajectory import Trajectory, View

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "DenoiserPipeline",
    "Diverged",
    "Edge",
    "ExactDenoiser",
    "Placement",
    "Result",
    "Trajectory",
    "View",
    "bundled",
    "chain",
    "complete",
    "coupling",
    "energies",
    "latents",
    "maps",
    "methods",
    "metrics",
    "pair",
    "parallel",
    "sample",
    "scenes",
    "schedulers",
    "star",
    "weights",
]

_MODULES = {
    "bundled",
    "coupling",
    "energies",
    "latents",
    "maps",
    "methods",
    "metrics",
    "parallel",
    "scenes",
    "schedulers",
    "weights",
}
_HOMES = {
    "Checkpoint": "resume.checkpoint",
    "DenoiserPipeline": "denoiser",
    "Diverged": "sampling",
    "Edge": "graph",
    "ExactDenoiser": "exact",
    "Placement": "memory",
    "Result": "sampling",
    "Trajectory": "trajectory",
    "View": "trajectory",
    "chain": "graph",
    "complete": "graph",
    "pair": "graph",
    "sample": "sampling",
    "star": "graph",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"couple.{name}")
    if name in _HOMES:
        return getattr(import_module(f"couple.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'couple' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
