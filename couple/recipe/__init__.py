"""Recipes: a coupling written down in a TOML file, checked as a whole, and run.

`read` a file, `expand` its sweep, `plan` or `run` what it says. A recipe may come from anywhere: it holds no code,
names no Python, reaches no file outside its folder, and is bounded in everything it can ask for.

The names are imported when first used: reading takes no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from couple.recipe.planning import plan
    from couple.recipe.reading import Recipe, read, recorded
    from couple.recipe.running import run
    from couple.recipe.sweeping import expand

__all__ = ["Recipe", "expand", "plan", "read", "recorded", "run"]

_HOMES = {
    "Recipe": "reading",
    "expand": "sweeping",
    "plan": "planning",
    "read": "reading",
    "recorded": "reading",
    "run": "running",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"couple.recipe.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'couple.recipe' has no attribute {name!r}")
