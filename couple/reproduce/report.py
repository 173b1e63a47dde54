"""What is written when everything is measured: CSV tables, plots, sheets, and one page with all tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from couple.reproduce import figures
from couple.reproduce.ledger import Ledger, Unit
from couple.reproduce.plan import PER_UNIT
from couple.reproduce.scenes import TASKS
from couple.reproduce.tables import Mean, Row, as_csv, difference, differences, label, markdown, rows
from couple.reproduce.ways import LAWS

SLACK = 0.3
"""What the coupling may lose of the best other PSNR, in dB."""
#: What the coupling is compared with where it is judged.
_RIVALS = ("per-image", "image-to-multi-view", "Liu et al.", "Du et al.")


def write(units: Sequence[Unit], ledger: Ledger, pictures: Path, folder: Path) -> list[Path]:
    """Write everything that the finished units allow.

    Args:
        units: what was planned.
        ledger: where the results are.
        pictures: folder of kept pictures.
        folder: where to.

    Returns:
        What was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, list[Row]] = {}
    for experiment in dict.fromkeys(unit.experiment for unit in units):
        found = ledger.of(unit for unit in units if unit.experiment == experiment)
        if found:
            tables[experiment] = rows(found)
    written = []
    for experiment, table in tables.items():
        written.append(folder / f"{experiment}.csv".replace(" ", "-").replace(",", ""))
        written[-1].write_text(as_csv(table), encoding="utf-8")
    written.append(folder / "tables.md")
    written[-1].write_text(
        "\n\n".join(_section(name, table) for name, table in tables.items()) + "\n", encoding="utf-8"
    )

    if "strength" in tables:
        for draw, name in ((figures.strength, "strength.png"), (figures.pareto, "pareto.png")):
            draw(tables["strength"], folder / name)
            written.append(folder / name)
    edits = {task: tables[task] for task in TASKS if task in tables}
    if edits:
        figures.methods(edits, folder / "methods.png")
        written.append(folder / "methods.png")
    sampled = {kind: tables[kind] for kind in PER_UNIT if kind in tables}
    if sampled:
        figures.pairs(sampled, folder / "pairs.png")
        written.append(folder / "pairs.png")
    return written + figures.sheets(ledger, units, pictures, folder)


def verdict(table: Sequence[Row], law: str) -> str:
    """Whether the coupling has better agreeing views than its rivals, at no worse fidelity, in one sentence.

    Args:
        table: the rows of a task.
        law: the coupled row.
    """
    by = {row.name: row for row in table}
    coupled = by[law]
    rivals = [by[name] for name in _RIVALS if name in by]
    gaps = {rival.name: difference(coupled, rival, "error") for rival in rivals}
    clear = [name for name, gap in gaps.items() if gap.value < -2 * gap.error]
    best = max(rivals, key=lambda row: row.mean("psnr").value)
    lost = difference(coupled, best, "psnr")
    consistent = "more" if len(clear) == len(gaps) else "not clearly more"
    against = "" if len(clear) == len(gaps) else f" than {', '.join(name for name in gaps if name not in clear)}"
    faithful = "no worse" if lost.value >= -SLACK else "worse"
    return (
        f"{label(coupled)}: {consistent} consistent{against or ' than ' + ', '.join(gaps)} by two standard errors; "
        f"{faithful} in PSNR than the best of them, {best.name}, less {SLACK} dB ({lost.text(2)} dB)."
    )


def _section(name: str, table: Sequence[Row]) -> str:
    parts = [f"### {name}", markdown(table)]
    if name in TASKS:
        by = {row.name: row for row in table}
        for law in LAWS:
            if law in by and _tells(difference(by[law], table[0], "psnr")):
                parts += [differences(table, by[law]), verdict(table, law)]
    return "\n\n".join(parts)


def _tells(gap: Mean) -> bool:
    return math.isfinite(gap.error)
