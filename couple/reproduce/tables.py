"""Tables: means with standard errors, differences from the coupling, as CSV and as Markdown.

A sample is a scene, whose seeds are averaged first, or a pair of prompts: those are what was drawn independently. The
standard error of a difference is that of the differences on the same samples, which is what can be told from noise.
"""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from couple.reproduce.ledger import Measures, Unit

Samples = dict[Hashable, float]
"""A measure by sample."""

COLUMNS: Mapping[str, tuple[str, int]] = {
    "psnr": ("PSNR, dB ↑", 2),
    "ssim": ("SSIM ↑", 3),
    "error": ("views differ by ↓", 2),
    "change": ("changed by", 1),
    "distance": ("distance, px ↓", 2),
    "iou": ("overlap ↑", 3),
    "apart": ("models differ by ↓", 2),
    "colour": ("colour ↑", 3),
    "shape": ("shape ↑", 3),
    "motion": ("motion ↑", 3),
    "accuracy": ("all right ↑", 3),
    "seconds": ("CPU seconds", 1),
}
"""Heading and decimals of each measure, in the order of columns."""

NAMES: Mapping[str, str] = {
    "input": "the input, unedited",
    "Liu et al.": "Liu et al. (score average)",
    "Du et al.": "Du et al. (score average, MCMC)",
    **{law: f"coupled, {law}" for law in ("constant", "rate", "relax", "implicit")},
}
"""How rows are called where their own name does not say it."""


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error, nan where one sample cannot tell."""

    value: float
    error: float
    count: int

    def text(self, decimals: int) -> str:
        """As in "20.31 ± .12".

        Example:
            >>> Mean(20.312, 0.118, 24).text(2), Mean(0.5, math.nan, 1).text(1)
            ('20.31 ± .12', '0.5')
        """
        value = f"{self.value:.{decimals}f}"
        if not math.isfinite(self.error):
            return value
        return f"{value} ± {self.error:.{decimals}f}".replace("± 0.", "± .")


@dataclass(frozen=True, eq=False)
class Row:
    """One row: where it comes from, its samples by measure, and how many of its units ran away."""

    name: str
    setting: tuple[tuple[str, float], ...]
    samples: Mapping[str, Samples]
    lost: int

    def mean(self, measure: str) -> Mean:
        """Mean of a measure over the samples."""
        return mean(list(self.samples[measure].values()))


def mean(values: Sequence[float]) -> Mean:
    """Mean and standard error of independent values."""
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return Mean(fmean(values), error, len(values))


def rows(results: Mapping[Unit, Measures]) -> list[Row]:
    """The rows of an experiment, one for each way and setting, in the order of the units."""
    found: dict[tuple, dict[str, dict[Hashable, list[float]]]] = {}
    lost: dict[tuple, int] = defaultdict(int)
    for unit, measures in results.items():
        key = unit.row, unit.setting
        into = found.setdefault(key, defaultdict(lambda: defaultdict(list)))
        lost[key] += not measures
        for name, value in measures.items():
            for k, one in enumerate(value if isinstance(value, list) else [value]):
                if math.isfinite(one):
                    into[name][unit.scene, k].append(one)
    return [
        Row(name, setting, {measure: {s: fmean(v) for s, v in by.items()} for measure, by in into.items()}, lost[key])
        for key in found
        for (name, setting), into in [(key, found[key])]
    ]


def difference(one: Row, other: Row, measure: str) -> Mean:
    """Mean of `one` minus `other` over the samples that both have."""
    a, b = one.samples.get(measure, {}), other.samples.get(measure, {})
    return mean([a[sample] - b[sample] for sample in a if sample in b])


def markdown(table: Sequence[Row]) -> str:
    """The table, best values of each column in bold; the unedited input is never best."""
    measures = [name for name in COLUMNS if any(name in row.samples for row in table)]
    lines = [
        "| | " + " | ".join(COLUMNS[name][0] for name in measures) + " |",
        "|---|" + "---|" * len(measures),
    ]
    best = {name: _best(table, name) for name in measures}
    for row in table:
        cells = []
        for name in measures:
            text = row.mean(name).text(COLUMNS[name][1]) if row.samples.get(name) else "-"
            cells.append(f"**{text}**" if row is best[name] else text)
        lines.append(f"| {label(row)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences(table: Sequence[Row], coupled: Row, measures: Sequence[str] = ("psnr", "ssim", "error")) -> str:
    """A table of the coupled row minus each other one, on the same samples."""
    lines = [
        f"| {label(coupled)} minus | " + " | ".join(COLUMNS[name][0] for name in measures) + " |",
        "|---|" + "---|" * len(measures),
    ]
    for row in table:
        if row is not coupled and row.samples:
            cells = [difference(coupled, row, name) for name in measures]
            texts = [cell.text(COLUMNS[name][1]) for cell, name in zip(cells, measures, strict=True)]
            lines.append(f"| {label(row)} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def as_csv(table: Sequence[Row]) -> str:
    """The table with full settings, a mean and a standard error in each pair of columns."""
    measures = [name for name in COLUMNS if any(name in row.samples for row in table)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    headings = [part for name in measures for part in (name, f"{name} standard error")]
    writer.writerow(["row", "setting", "samples", "ran away", *headings])
    for row in table:
        means = [row.mean(name) if row.samples.get(name) else None for name in measures]
        count = max((m.count for m in means if m), default=0)
        cells = [part for m in means for part in ((f"{m.value:.5g}", f"{m.error:.3g}") if m else ("", ""))]
        writer.writerow([row.name, _written(row.setting), count, row.lost, *cells])
    return out.getvalue()


def label(row: Row) -> str:
    """Name and setting of a row, as tables and sheets show it."""
    name = NAMES.get(row.name, row.name)
    return f"{name} ({_written(row.setting)})" if row.setting else name


def _written(setting: tuple[tuple[str, float], ...]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in setting)


def _best(table: Sequence[Row], measure: str) -> Row | None:
    if measure in ("seconds", "change"):
        return None
    rows_ = [row for row in table if row.samples.get(measure) and row.name != "input"]
    if len(rows_) < 2:
        return None
    sign = -1 if "↓" in COLUMNS[measure][0] else 1
    return max(rows_, key=lambda row: sign * row.mean(measure).value)
