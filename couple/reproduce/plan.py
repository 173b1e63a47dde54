"""What is measured: the units of every table and plot, in the default size and in the quick one.

Settings of methods are not chosen here: they come from `settings.json`, which `couple reproduce --tune` writes from
held-out scenes. The strengths of the strength analysis are the same for everyone, and none is chosen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from couple.reproduce.ledger import Unit, settled
from couple.reproduce.scenes import ANALYSED, HELD_OUT, TASKS, TEST
from couple.reproduce.ways import WAYS, Setting

SETTINGS = Path(__file__).parent / "settings.json"
TRUE_VIEW = ", true view"
"""Ending of the experiments in which the multi-view model is given a view of a true edit."""
TUNING = ", tuning"
"""Ending of the experiments on held-out scenes."""

SIZES = 3, 4, 8
"""Numbers of trajectories in the graphs."""
GRAPHS = "apart", "chain", "star", "complete"
PER_UNIT = {"image pairs": 10, "video pairs": 6}
"""Pairs that are sampled in one go."""

_FEW = ("input", "per-image", "image-to-multi-view", "Liu et al.", "Du et al.", "constant", "relax")
ROWS: Mapping[str, tuple[str, ...]] = {
    "relight": tuple(way for way in WAYS if way not in ("rate", "implicit")),
    "restyle": _FEW,
    "move": _FEW,
    f"relight{TRUE_VIEW}": ("input", "image-to-multi-view", "Liu et al.", "relax"),
    "strength": ("per-image", "image-to-multi-view", "constant", "rate", "relax", "implicit"),
    "image pairs": ("apart", "apart, one noise", "relax 1, early", "relax 1, to .3", "constant .03"),
    "video pairs": ("apart", "apart, one noise", "relax 1, early", "relax 1"),
    "graphs": tuple(f"{size}, {graph}" for size in SIZES for graph in GRAPHS),
    "three editing models": ("apart", "coupled"),
    "picture and video": ("apart", "coupled"),
}
"""The rows of every experiment."""

STRENGTHS: Mapping[str, tuple[float, ...]] = {
    "constant": (0.01, 0.03, 0.06, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 1.6, 2.0, 3.0),
    "rate": (0.01, 0.03, 0.06, 0.1, 0.2, 0.4, 0.7, 1.2, 2.5, 5.0),
    "relax": (0.03, 0.1, 0.2, 0.4, 0.8, 1.5, 3.0, 6.0, 12.0, 50.0),
    "implicit": (0.01, 0.03, 0.06, 0.1, 0.2, 0.4, 1.0, 3.0, 10.0, 50.0),
}
"""Strengths of each law in the strength analysis, the law's own measure of it."""

GRIDS: Mapping[str, tuple[Setting, ...]] = {
    "SDEdit": tuple({"start": start} for start in (0.3, 0.45, 0.6, 0.75, 0.9)),
    "Liu et al.": tuple({"share": share} for share in (0.25, 0.4, 0.5, 0.6, 0.75)),
    "Du et al.": tuple({"share": share, "moves": 1, "size": size} for share in (0.4, 0.6) for size in (0.02, 0.1, 0.3)),
    "SyncTweedies": tuple({"share": share} for share in (0.25, 0.4, 0.5, 0.6, 0.75)),
    "constant": tuple({"weight": weight} for weight in (0.03, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2)),
    "rate": tuple({"weight": weight} for weight in (0.03, 0.1, 0.3, 0.7)),
    "relax": tuple({"weight": weight, "decay": decay} for decay in (1.0, 0.5) for weight in (0.1, 0.3, 1.0, 3.0, 10.0)),
    "implicit": tuple({"weight": weight} for weight in (0.1, 0.3, 1.0, 3.0)),
}
"""Settings that are tried on held-out scenes."""


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        scenes: of each editing task.
        seeds: of each scene.
        strength_scenes: of the strength analysis, one seed each.
        every: which strengths, every one or every so many.
        image_pairs: pairs of pictures; a multiple of those of a unit.
        video_pairs: pairs of videos, likewise.
        sets: of prompts for each graph, and scenes for the coupling of three models.
        steps: denoising steps of the editing models.
    """

    scenes: int = 24
    seeds: int = 3
    strength_scenes: int = 5
    every: int = 1
    image_pairs: int = 100
    video_pairs: int = 48
    sets: int = 6
    steps: int = 10


DEFAULT = Size()
QUICK = Size(scenes=2, seeds=1, strength_scenes=1, every=3, image_pairs=10, video_pairs=6, sets=1)
HELD_OUT_SCENES = 8


def plan(size: Size, settings: Mapping[str, Mapping[str, Setting]], only: Iterable[str] = ROWS) -> list[Unit]:
    """All units of some experiments.

    Args:
        size: how much.
        settings: by task and way.
        only: keys of `ROWS`.
    """
    return [unit for experiment in only for unit in _units(experiment, size, settings)]


def _units(experiment: str, size: Size, settings: Mapping[str, Mapping[str, Setting]]) -> list[Unit]:
    rows = ROWS[experiment]
    task = experiment.removesuffix(TRUE_VIEW)
    if task in TASKS:
        return [
            Unit(experiment, row, settled(settings[task].get(row, {})), seed, TEST + scene)
            for scene in range(size.scenes)
            for seed in range(size.seeds)
            for row in rows
        ]
    if experiment == "strength":
        return [
            Unit(experiment, row, setting, 0, ANALYSED + scene)
            for scene in range(size.strength_scenes)
            for row in rows
            for setting in _strengths(row, size.every, settings["relight"])
        ]
    if experiment in PER_UNIT:
        wanted = size.image_pairs if experiment == "image pairs" else size.video_pairs
        count = -(-wanted // PER_UNIT[experiment])
    else:
        count = size.sets
    first = TEST if experiment == "three editing models" else 0
    return [Unit(experiment, row, (), 0, first + k) for k in range(count) for row in rows]


def _strengths(way: str, every: int, chosen: Mapping[str, Setting]) -> list[tuple[tuple[str, float], ...]]:
    """The settings of a way in the strength analysis; what is not strength is as it was chosen."""
    if way not in STRENGTHS:
        return [()]
    return [settled({**chosen.get(way, {}), "weight": weight}) for weight in STRENGTHS[way][::every]]


def tuning_plan(scenes: int = HELD_OUT_SCENES) -> list[Unit]:
    """Units that say which setting each way needs, on scenes that nothing else sees; one seed each."""
    return [
        Unit(f"{task}{TUNING}", way, settled(setting), 0, HELD_OUT + scene)
        for task in TASKS
        for scene in range(scenes)
        for way, grid in GRIDS.items()
        if way in ROWS[task] or (task == "relight" and way in STRENGTHS)
        for setting in grid
    ]


def chosen_settings(path: Path = SETTINGS) -> dict[str, dict[str, Setting]]:
    """The chosen settings, by task and way."""
    return json.loads(path.read_text(encoding="utf-8"))
