"""How units are measured: in groups that share work, by worker processes that load the models once.

A unit's numbers are those of its group run alone on one thread, so neither the number of workers nor what was finished
before changes them. Pictures of the first scenes are kept for the sheets.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline, WanPipeline
from torch import Tensor
from tqdm.auto import tqdm

from couple import bundled, weights
from couple.cli.machine import quiet_libraries
from couple.reproduce import pairs, three
from couple.reproduce.ledger import Ledger, Measures, Unit
from couple.reproduce.measures import measured
from couple.reproduce.models import Models, load
from couple.reproduce.plan import PER_UNIT, TRUE_VIEW, TUNING
from couple.reproduce.scenes import TASKS, TEST, case
from couple.reproduce.ways import Edit
from couple.scenes.pictures import to_pictures

SHOWN = 2
"""Of how many scenes, from the first one on, the pictures are kept."""
PAIRS_SEED = 1
"""Of the prompts; the windows of the bundled defaults were chosen on those of seed 0."""

_BESIDE = "shown to the editor", "one true edit"
_EARLY = {"image pairs": bundled.TEXT_TO_IMAGE_UNTIL, "video pairs": bundled.TEXT_TO_VIDEO_UNTIL}


@dataclass(frozen=True)
class Setup:
    """What a worker needs to know; a plain value, so that it can be sent to one.

    Attributes:
        steps: of the editing models.
        pictures: folder where pictures are kept.
        folders: of editing models other than the bundled ones, by name.
    """

    steps: int
    pictures: Path
    folders: tuple[tuple[str, Path], ...] = ()


def measure(units: Sequence[Unit], ledger: Ledger, setup: Setup, workers: int) -> None:
    """Measure what is not in the ledger yet, and write it there.

    Args:
        units: what is wanted.
        ledger: where finished units are.
        setup: for the workers.
        workers: processes; 1 works in this one.
    """
    groups: dict[tuple, list[Unit]] = defaultdict(list)
    for unit in units:
        if unit not in ledger:
            groups[unit.group].append(unit)
    with tqdm(total=sum(map(len, groups.values())), unit="unit", disable=not groups) as bar:

        def write(found: Mapping[Unit, Measures]) -> None:
            for unit, measures in found.items():
                ledger.add(unit, measures)
            bar.update(len(found))

        if workers == 1:
            for group in groups.values():
                write(run_group(group, setup))
            return
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=quiet_libraries) as pool:
            futures = [pool.submit(run_group, group, setup) for group in groups.values()]
            try:
                for future in as_completed(futures):
                    write(future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def run_group(units: Sequence[Unit], setup: Setup) -> dict[Unit, Measures]:
    """Measure the units of one group."""
    experiment = units[0].experiment
    special: dict[str, Callable[[Sequence[Unit], Setup], dict[Unit, Measures]]] = {
        "image pairs": _pairs,
        "video pairs": _pairs,
        "graphs": _graphs,
        "three editing models": _three_editing_models,
        "picture and video": _picture_and_video,
    }
    with _one_thread():
        return special.get(experiment, _edits)(units, setup)


def shown_rows(experiment: str, rows: Sequence[str]) -> list[str]:
    """Under which names pictures of an experiment are kept: its rows, and what is shown beside them."""
    if experiment == "three editing models":
        return [f"{row}, {name}" for row in rows for name in three.MODELS]
    if experiment in TASKS:
        return [row for way in rows for row in ((way, *_BESIDE) if way == "input" else (way,))]
    return list(rows)


def strip(folder: Path, unit: Unit) -> Path:
    """Where the pictures of a unit are kept, side by side."""
    return folder / f"{unit.experiment}-{unit.scene}-{unit.row}.png".replace(" ", "_")


def _edits(units: Sequence[Unit], setup: Setup) -> dict[Unit, Measures]:
    """One scene of an editing task with one seed, in all ways."""
    first = units[0]
    exactly = first.experiment.endswith(TRUE_VIEW)
    task = first.experiment.removesuffix(TRUE_VIEW).removesuffix(TUNING).replace("strength", "relight")
    scene, models = case(task, first.scene), _models(setup)
    edit = Edit(models, scene, _noise_seed(first), reference=scene.truth[0] if exactly else None)
    # The reference is made in any case; its time is that of the way it belongs to.
    (_, alone) = _timed(lambda: edit.per_image)
    found: dict[Unit, Measures] = {}
    for unit in units:
        try:
            pictures, seconds = _timed(functools.partial(edit.pictures, unit.row, dict(unit.setting)))
        except FloatingPointError:
            found[unit] = {}
            continue
        seconds = alone if unit.row == "per-image" else seconds
        found[unit] = {**_rounded(measured(scene, pictures, exactly=exactly)), "seconds": round(seconds, 2)}
        if first.experiment == task or exactly:
            _keep(setup, unit, pictures)
    if first.experiment == task:
        for name, pictures in zip(_BESIDE, (scene.shown["image"], scene.truth), strict=True):
            _keep(setup, replace(first, row=name), pictures)
    return found


def _pairs(units: Sequence[Unit], setup: Setup) -> dict[Unit, Measures]:
    """A few pairs of prompts, in all rows."""
    kind, count = units[0].experiment, PER_UNIT[units[0].experiment]
    first = units[0].scene * count
    if kind == "image pairs":
        pipeline, settings, score = _image(), bundled.TEXT_TO_IMAGE_DEFAULTS, pairs.image_scores
        prompts = pairs.image_prompts(first + count, PAIRS_SEED)[first:]
    else:
        pipeline, settings, score = _video(), bundled.TEXT_TO_VIDEO_DEFAULTS, pairs.video_scores
        prompts = pairs.video_prompts(first + count, PAIRS_SEED)[first:]
    laws = {
        "relax 1, early": weights.window(weights.relax(1.0), 0.0, _EARLY[kind]),
        "relax 1, to .3": weights.window(weights.relax(1.0), 0.0, 0.3),
        "relax 1": weights.relax(1.0),
        "constant .03": weights.constant(0.03),
    }
    found: dict[Unit, Measures] = {}
    for unit in units:
        shared = unit.row == "apart, one noise"
        outputs, seconds = _timed(
            functools.partial(
                pairs.sampled,
                pipeline,
                prompts,
                laws.get(unit.row),
                settings,
                shared_noise=shared,
                first=first,
            )
        )
        samples = [(o.images if kind == "image pairs" else o.frames).float().clamp(0, 1) for o in outputs]
        scores = {name: [round(value, 4) for value in values] for name, values in score(prompts, samples).items()}
        found[unit] = {**scores, "seconds": round(seconds, 2)}
        middles = [s if kind == "image pairs" else s[:, s.shape[1] // 2] for s in samples]
        _keep(setup, unit, torch.stack(middles, 1).flatten(0, 1)[:8])
    return found


def _graphs(units: Sequence[Unit], setup: Setup) -> dict[Unit, Measures]:
    """Sets of 3, 4 and 8 prompts, joined in all ways."""
    law = weights.window(weights.relax(1.0), 0.0, bundled.TEXT_TO_IMAGE_UNTIL)
    found: dict[Unit, Measures] = {}
    for unit in units:
        size, graph = unit.row.split(", ")
        prompts = pairs.image_prompts(unit.scene + 1, PAIRS_SEED, int(size))[-1:]
        coupled = graph != "apart"
        outputs, seconds = _timed(
            functools.partial(
                pairs.sampled,
                _image(),
                prompts,
                law if coupled else None,
                bundled.TEXT_TO_IMAGE_DEFAULTS,
                graph=graph if coupled else "complete",
                first=unit.scene,
            )
        )
        pictures = [output.images.float().clamp(0, 1) for output in outputs]
        scores = {name: values[0] for name, values in pairs.image_scores(prompts, pictures).items()}
        found[unit] = {**_rounded(scores), "seconds": round(seconds, 2)}
        _keep(setup, unit, torch.cat(pictures))
    return found


def _three_editing_models(units: Sequence[Unit], setup: Setup) -> dict[Unit, Measures]:
    scene, models = case("restyle", units[0].scene), _models(setup)
    found: dict[Unit, Measures] = {}
    for unit in units:
        weight = weights.relax(1.0) if unit.row == "coupled" else None
        (scores, views), seconds = _timed(
            functools.partial(three.three_editing_models, models, scene, _noise_seed(unit), weight)
        )
        found[unit] = {**_rounded(scores), "seconds": round(seconds, 2)}
        for name, pictures in views.items():
            _keep(setup, replace(unit, row=f"{unit.row}, {name}"), pictures)
    return found


def _picture_and_video(units: Sequence[Unit], setup: Setup) -> dict[Unit, Measures]:
    prompts = pairs.video_prompts(units[0].scene + 1, PAIRS_SEED)[-1]
    words = (*prompts[0][:2], *prompts[1])
    calls = bundled.TEXT_TO_IMAGE_DEFAULTS, bundled.TEXT_TO_VIDEO_DEFAULTS
    found: dict[Unit, Measures] = {}
    for unit in units:
        law = weights.window(weights.relax(1.0), 0.0, bundled.TEXT_TO_VIDEO_UNTIL) if unit.row == "coupled" else None
        (scores, shown), seconds = _timed(
            functools.partial(three.picture_and_video, _image(), _video(), calls, words, unit.scene, law)
        )
        found[unit] = {**_rounded(scores), "seconds": round(seconds, 2)}
        _keep(setup, unit, torch.cat(list(shown.values())))
    return found


@functools.cache
def _models(setup: Setup) -> Models:
    return load(setup.steps, dict(setup.folders))


@functools.cache
def _image() -> Any:
    pipeline = FluxPipeline.from_pretrained(bundled.text_to_image(), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@functools.cache
def _video() -> Any:
    pipeline = WanPipeline.from_pretrained(bundled.text_to_video(), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _noise_seed(unit: Unit) -> int:
    return 1000 * unit.scene + unit.seed


def _keep(setup: Setup, unit: Unit, pictures: Tensor) -> None:
    """Save pictures (N, 3, H, W) side by side if they are of a scene that is shown."""
    if unit.seed or unit.scene % TEST >= SHOWN:
        return
    setup.pictures.mkdir(parents=True, exist_ok=True)
    to_pictures(torch.cat(list(pictures), 2)[None])[0].save(strip(setup.pictures, unit))


def _timed(act: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    return act(), time.process_time() - started


def _rounded(scores: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 5) if math.isfinite(value) else value for name, value in scores.items()}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums do not depend on how many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
