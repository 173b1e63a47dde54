"""How the setting of every method is chosen: on held-out scenes, by one rule for the baselines and the coupling alike.

Of the settings whose PSNR is within `SLACK` of the method's best, the one whose views agree best. So no method is shown
at a setting that is good for its fidelity alone or for its consistency alone.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from couple.reproduce.ledger import Measures, Unit
from couple.reproduce.plan import TUNING

SLACK = 0.3
"""In dB."""


def chosen(results: Mapping[Unit, Measures]) -> dict[str, dict[str, dict[str, float]]]:
    """The settings by task and way, from the measures of tuning units; a setting that ran away once is out."""
    found: dict[tuple[str, str], dict[tuple, list[Measures]]] = defaultdict(lambda: defaultdict(list))
    for unit, measures in results.items():
        found[unit.experiment.removesuffix(TUNING), unit.row][unit.setting].append(measures)
    settings: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for (task, way), tried in found.items():
        scores = {
            setting: (fmean(_each(measures, "psnr")), fmean(_each(measures, "error")))
            for setting, measures in tried.items()
            if all(measures)
        }
        if not scores:
            raise ValueError(f"{task}: {way} ran away at every setting that was tried.")
        best = max(fidelity for fidelity, _ in scores.values())
        good = [setting for setting, (fidelity, _) in scores.items() if fidelity >= best - SLACK]
        settings[task][way] = dict(min(good, key=lambda setting: scores[setting][1]))
    return dict(settings)


def write(settings: Mapping[str, Any], path: Path) -> None:
    """Write settings where `plan.chosen_settings` reads them."""
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _each(measures: list[Measures], name: str) -> list[float]:
    return [float(one[name]) for one in measures]  # pyright: ignore[reportArgumentType]
