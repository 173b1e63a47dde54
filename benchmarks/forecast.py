"""How near is the time that `couple run --dry-run` foretells to the time that denoising then takes?

The bundled models as recipes call them, each forecast followed by the run that it is of. The forecast is read from what
the dry run prints, the time from the record of the run: its stage "denoise" begins when the first step is over.

    python -m benchmarks.forecast
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
from pathlib import Path

from benchmarks import harness
from couple import bundled, recipe

RECIPES = Path(__file__).parents[1] / "recipes"
#: Two views of the bundled scene edited by one of its editors.
EDIT = """
[models.editor]
bundled = "{model}"
[trajectories.a]
model = "editor"
prompt = "{prompt}"
images = {{ image = "0.png" }}
[trajectories.b]
model = "editor"
prompt = "{prompt}"
images = {{ image = "1.png" }}
[[edges]]
between = ["a", "b"]
weight = {{ law = "relax", strength = 1.0, window = [0.0, 0.2] }}
"""


def foretold(asked: recipe.Recipe) -> float:
    """Seconds of denoising, as a dry run says them."""
    text = recipe.plan(asked, "cpu")
    found = re.search(r"time: about ([\d.e+-]+) (s|minutes|hours) of denoising", text)
    assert found is not None, text
    return float(found[1]) * {"s": 1, "minutes": 60, "hours": 3600}[found[2]]


def taken(asked: recipe.Recipe, folder: Path) -> float:
    """Seconds of denoising of a run, the first step of it as long as the others."""
    recipe.run(asked, folder, "cpu")
    record = json.loads(next(folder.rglob("run.json")).read_text())
    steps = max(record["batch"]["steps"])
    return record["seconds"]["denoise"] * steps / (steps - 1)


def subjects(folder: Path) -> dict[str, recipe.Recipe]:
    """Recipes by what they show; those of the editors are written into a folder."""
    for k, path in enumerate(sorted((bundled.scene() / "images").glob("*.png"))[:2]):
        (folder / f"{k}.png").write_bytes(path.read_bytes())
    found = {"text to image": recipe.read(RECIPES / "pair.toml")}
    found["video"] = recipe.read(RECIPES / "clips.toml", ["sweep.edges.0.weight.strength=[1.0]"])
    for model, prompt in (("instruct", bundled.INSTRUCTIONS[0]), ("restyle", "a winter scene")):
        file = folder / f"{model}.toml"
        file.write_text(EDIT.format(model=model, prompt=prompt))
        found[f"editing, {model}"] = recipe.read(file)
    return found


def main() -> None:
    """Print one JSON line a model."""
    pairs = harness.options(__doc__, pairs=7).pairs
    with tempfile.TemporaryDirectory() as place:
        for name, asked in subjects(Path(place)).items():
            runs = [(foretold(asked), taken(asked, Path(place) / "run" / f"{name} {k}")) for k in range(pairs)]
            ratios = sorted(said / took for said, took in runs)
            harness.report(
                "forecast",
                name,
                forecast_over_taken=statistics.median(ratios),
                least=ratios[0],
                most=ratios[-1],
                seconds=statistics.median(took for _, took in runs),
                pairs=pairs,
            )


if __name__ == "__main__":
    main()
