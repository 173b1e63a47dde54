"""The work behind `couple reproduce`: plan, say how long it takes, measure, write."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

from couple import bundled
from couple.cli.machine import quiet_libraries
from couple.cli.options import Misuse
from couple.reproduce import plan, report, tuning
from couple.reproduce.ledger import Ledger, Unit
from couple.reproduce.plan import DEFAULT, QUICK, ROWS, SETTINGS, TUNING
from couple.reproduce.running import Setup, measure

#: What is imported along the way, and the name it is installed under.
_NEEDED = {"matplotlib": "matplotlib", "torchmetrics": "torchmetrics", "cv2": "opencv-python-headless"}

SECONDS: Mapping[str, float] = {
    "input": 0.4,
    "per-image": 1.0,
    "image-to-multi-view": 1.0,
    "SDEdit": 0.7,
    "Du et al.": 2.8,
    "image pairs": 7.0,
    "video pairs": 4.0,
    "graphs": 2.0,
    "three editing models": 4.0,
    "picture and video": 1.6,
}
"""CPU seconds of a unit by row or experiment, its measures included, seen on two cores of 2026."""
_OTHERS = 1.5
"""Of ways in which two editing models work together."""


def run(
    *,
    quick: bool,
    only: Sequence[str] | None,
    out: Path,
    workers: int,
    tune: bool,
    folders: Mapping[str, Path] | None = None,
    settings: Path = SETTINGS,
) -> None:
    """Carry out a command line.

    Args:
        quick: the small size.
        only: keys of `plan.ROWS`; None for all.
        out: folder of results.
        workers: processes.
        tune: whether to choose settings, and nothing else.
        folders: of editing models in place of the bundled ones, by name.
        settings: the file of chosen settings.

    Raises:
        Misuse: an experiment is unknown.
        ModuleNotFoundError: something that is needed is not installed.
        ValueError: `out` holds results of other models.
    """
    for name in only or ():
        if name not in ROWS:
            raise Misuse(f"--only {name} is unknown; choose from {', '.join(map(repr, ROWS))}.")
    for module, name in _NEEDED.items():
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"{name} is needed and not installed; run: pip install 'couple[reproduce]'.")
    quiet_libraries()
    size = QUICK if quick else DEFAULT
    units = plan.tuning_plan() if tune else plan.plan(size, plan.chosen_settings(settings), only or ROWS)
    ledger = Ledger(out / "ledger.jsonl", {"models": _fingerprint(folders or {}), "steps": size.steps})
    setup = Setup(size.steps, out / "pictures", tuple(sorted((folders or {}).items())))
    left = [unit for unit in units if unit not in ledger]
    minutes = sum(_seconds(unit) for unit in left) / workers / 60
    print(f"{len(left)} of {len(units)} units to measure, about {minutes:.0f} minutes with {workers} workers.")
    measure(units, ledger, setup, workers)
    if tune:
        tuning.write(tuning.chosen(ledger.of(units)), settings)
        print(settings)
        return
    for path in report.write(units, ledger, setup.pictures, out):
        print(path)


def _seconds(unit: Unit) -> float:
    return SECONDS.get(unit.row, SECONDS.get(unit.experiment.removesuffix(TUNING), _OTHERS))


def _fingerprint(folders: Mapping[str, Path]) -> str:
    """12 hexadecimal digits that stand for the weights of the editing models."""
    digest = hashlib.sha256()
    places = {"views": bundled.views(), "instruct": bundled.instruct(), "restyle": bundled.restyle(), **folders}
    for name in sorted(places):
        for file in sorted(places[name].rglob("*.safetensors")):
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
