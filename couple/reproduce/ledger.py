"""What has been measured so far: one line of JSON for each finished unit, so that a run that was cut off goes on.

A `Unit` is one number of one table: one way of sampling, with its setting, on one scene with one seed. Its result
depends on nothing else, neither on the order of the work nor on how many share it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

Measures = Mapping[str, float | list[float]]
"""By name a number, or one for each of the samples that a unit has."""


@dataclass(frozen=True)
class Unit:
    """One thing to be measured.

    Attributes:
        experiment: which table or plot it belongs to.
        row: the way of sampling.
        setting: names and numbers of its setting.
        seed: of the noise.
        scene: what is sampled, a number.
    """

    experiment: str
    row: str
    setting: tuple[tuple[str, float], ...]
    seed: int
    scene: int

    @property
    def group(self) -> tuple[str, int, int]:
        """Units of one group share work, such as the edits of the single views; they run in one go."""
        return self.experiment, self.seed, self.scene


class Ledger:
    """A file of finished units.

    Args:
        path: the file; made if it is not there. A last line that was cut off is dropped.
        made_with: what all results depend on, such as names of models and numbers of steps.

    Raises:
        ValueError: the file was made with something else.
    """

    def __init__(self, path: Path, made_with: Mapping[str, object]):
        self._path = path
        self._done: dict[Unit, Measures] = {}
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
        whole = lines[:-1]
        if not whole:
            whole = [json.dumps({"made with": dict(made_with)})]
        elif json.loads(whole[0]) != {"made with": dict(made_with)}:
            raise ValueError(
                f"{path} was made with {json.loads(whole[0]).get('made with')}, this run is with {dict(made_with)}; "
                "name another folder with --out, or delete that one."
            )
        for line in whole[1:]:
            entry = json.loads(line)
            self._done[_unit(entry)] = entry["measures"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in whole), encoding="utf-8")

    def __contains__(self, unit: object) -> bool:
        """Whether a unit is finished."""
        return unit in self._done

    def __getitem__(self, unit: Unit) -> Measures:
        """The measures of a finished unit."""
        return self._done[unit]

    def add(self, unit: Unit, measures: Measures) -> None:
        """Write a finished unit down."""
        entry = {
            "experiment": unit.experiment,
            "row": unit.row,
            "setting": dict(unit.setting),
            "seed": unit.seed,
            "scene": unit.scene,
            "measures": measures,
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self._done[unit] = measures

    def of(self, units: Iterable[Unit]) -> dict[Unit, Measures]:
        """The finished ones of some units, in their order."""
        return {unit: self._done[unit] for unit in units if unit in self._done}


def settled(setting: Mapping[str, float]) -> tuple[tuple[str, float], ...]:
    """A setting as `Unit` has it: in the order of the names.

    Example:
        >>> settled({"weight": 1, "decay": 0.5})
        (('decay', 0.5), ('weight', 1.0))
    """
    return tuple((name, float(setting[name])) for name in sorted(setting))


def _unit(entry: Mapping) -> Unit:
    return Unit(entry["experiment"], entry["row"], settled(entry["setting"]), entry["seed"], entry["scene"])
