"""Plots and picture sheets. matplotlib is imported when the first one is drawn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from couple.cli.sheet import Row as SheetRow
from couple.cli.sheet import contact_sheet
from couple.reproduce.ledger import Ledger, Unit
from couple.reproduce.running import shown_rows, strip
from couple.reproduce.scenes import TEST
from couple.reproduce.tables import NAMES, Row
from couple.reproduce.ways import LAWS

_SIDE = 112
"""Of a picture on a sheet, in pixels."""
_INK, _PALE = "#1d1d1f", "#8a8a90"
_COLOURS = {
    "input": "#b8b8bd",
    "per-image": "#8a8a90",
    "image-to-multi-view": "#c58b2a",
    "SDEdit": "#a9712b",
    "Liu et al.": "#7a9a3a",
    "Du et al.": "#3f7d4e",
    "SyncTweedies": "#3d8f8f",
    "constant": "#d1495b",
    "relax": "#2d5fa8",
    "rate": "#e08e9b",
    "implicit": "#7ba0d8",
}


def strength(table: Sequence[Row], path: Path) -> None:
    """Fidelity and consistency over strength, a line for each weight law (Fig. 9)."""
    plt = _pyplot()
    figure, axes = plt.subplots(2, len(LAWS), figsize=(12, 5.2), sharey="row", sharex="col")
    single = {row.name: row for row in table if row.name not in LAWS}
    for column, law in enumerate(LAWS):
        points = _curve(table, law)
        for line, measure in enumerate(("psnr", "error")):
            axis = axes[line][column]
            means = [row.mean(measure) for _, row in points]
            axis.errorbar(
                [weight for weight, _ in points],
                [m.value for m in means],
                [m.error for m in means],
                color=_COLOURS[law],
                marker="o",
                markersize=3,
                linewidth=1.4,
            )
            for name, style in (("per-image", ":"), ("image-to-multi-view", "--")):
                if name in single:
                    axis.axhline(
                        single[name].mean(measure).value, color=_PALE, linestyle=style, linewidth=1, label=name
                    )
            axis.set_xscale("log")
        axes[0][column].set_title(f"coupled, {law}", fontsize=10)
        axes[1][column].set_xlabel("strength")
    axes[0][0].set_ylabel("PSNR to the nearest\ntrue edit, dB")
    axes[1][0].set_ylabel("views differ by,\n0 to 255")
    axes[0][0].legend(frameon=False, fontsize=8)
    _save(figure, path)


def pareto(table: Sequence[Row], path: Path) -> None:
    """Consistency against fidelity, a line over strengths for each law: the front that the default law is read from."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(6.4, 4.6))
    for law in LAWS:
        points = [row for _, row in _curve(table, law)]
        axis.plot(
            [row.mean("error").value for row in points],
            [row.mean("psnr").value for row in points],
            color=_COLOURS[law],
            marker="o",
            markersize=4,
            linewidth=1.2,
            label=f"coupled, {law}",
        )
    for row in table:
        if row.name not in LAWS:
            axis.plot(row.mean("error").value, row.mean("psnr").value, "s", color=_COLOURS[row.name], label=row.name)
    _axes(axis)
    _save(figure, path)


def methods(tables: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Consistency against fidelity of all methods, a panel for each task, with standard errors."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(tables), figsize=(4.6 * len(tables), 4.2), squeeze=False)
    for axis, (task, table) in zip(axes[0], tables.items(), strict=True):
        for row in table:
            x, y = row.mean("error"), row.mean("psnr")
            axis.errorbar(
                x.value,
                y.value,
                y.error,
                x.error,
                marker="o",
                markersize=6,
                color=_COLOURS[row.name],
                linestyle="none",
                label=NAMES.get(row.name, row.name),
            )
        axis.set_title(task, fontsize=11)
        _axes(axis, legend=task == next(iter(tables)))
    _save(figure, path)


def pairs(tables: Mapping[str, Sequence[Row]], path: Path) -> None:
    """Do pairs agree, and do they show their prompts: distance against accuracy, a panel for each kind of pair."""
    plt = _pyplot()
    figure, axes = plt.subplots(1, len(tables), figsize=(5.2 * len(tables), 4), squeeze=False)
    for axis, (kind, table) in zip(axes[0], tables.items(), strict=True):
        for k, row in enumerate(table):
            x, y = row.mean("distance"), row.mean("accuracy")
            axis.errorbar(
                x.value, y.value, y.error, x.error, marker="o", linestyle="none", color=f"C{k}", label=row.name
            )
        axis.set_title(kind, fontsize=11)
        axis.set_xlabel("distance of the objects, px")
        axis.set_ylabel("share that shows its prompt")
        axis.legend(frameon=False, fontsize=8)
    _save(figure, path)


def sheets(ledger: Ledger, units: Sequence[Unit], pictures: Path, folder: Path) -> list[Path]:
    """One sheet of pictures for each experiment and shown scene: rows of ways, columns of views.

    Args:
        ledger: where the measures are that stand beside the rows.
        units: what was planned.
        pictures: folder of kept pictures.
        folder: where to.
    """
    kept: dict[tuple[str, int], dict[str, Unit]] = defaultdict(dict)
    for unit in units:
        if not unit.seed:
            kept[unit.experiment, unit.scene].setdefault(unit.row, unit)
    written = []
    for (experiment, scene), by in kept.items():
        rows = []
        for name in shown_rows(experiment, list(by)):
            unit = by.get(name, Unit(experiment, name, (), 0, scene))
            if (place := strip(pictures, unit)).exists():
                rows.append(SheetRow(NAMES.get(name, name), _note(ledger, unit), _views(place)))
        if not rows:
            continue
        widest = max(len(row.pictures) for row in rows)
        rows = [row for row in rows if len(row.pictures) == widest]
        path = folder / f"{experiment}-{scene % TEST + 1}.png".replace(" ", "-").replace(",", "")
        contact_sheet(rows, [str(k + 1) for k in range(widest)], height=_SIDE).quantize(128).save(path, optimize=True)
        written.append(path)
    return written


def _note(ledger: Ledger, unit: Unit) -> str:
    measures = ledger[unit] if unit in ledger else {}
    if "error" in measures and "psnr" in measures:
        return f"{measures['psnr']:.1f} dB, views differ by {measures['error']:.1f}"
    return ""


def _views(place: Path) -> list[Image.Image]:
    """The square pictures of a strip, enlarged."""
    with Image.open(place) as image:
        side = image.height
        views = [image.crop((x, 0, x + side, side)).convert("RGB") for x in range(0, image.width, side)]
    return [view.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC) for view in views]


def _curve(table: Sequence[Row], law: str) -> list[tuple[float, Row]]:
    """Rows of a law by strength, those left out that ran away."""
    points = [(dict(row.setting)["weight"], row) for row in table if row.name == law and row.samples]
    return sorted(points, key=lambda point: point[0])


def _axes(axis: Any, *, legend: bool = True) -> None:
    axis.set_xlabel("views differ by, 0 to 255 (left is better)")
    axis.set_ylabel("PSNR to the nearest true edit, dB")
    if legend:
        axis.legend(frameon=False, fontsize=8)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9, "text.color": _INK})
    return plt


def _save(figure: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
