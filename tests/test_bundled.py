"""The bundled text-to-image model as a user meets it: a plain `FluxPipeline` that draws what the prompt says."""

import functools
import itertools
import json

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from PIL import Image

from couple.bundled import COLOURS, SHAPES, TEXT_TO_IMAGE_DEFAULTS, text_to_image
from couple.metrics.faithfulness import RenderClassifier


@functools.cache
def pipeline():
    pipe = FluxPipeline.from_pretrained(text_to_image())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(prompts, first_seed=0, **changes):
    generators = [torch.Generator().manual_seed(first_seed + k) for k in range(len(prompts))]
    settings = {**TEXT_TO_IMAGE_DEFAULTS, "output_type": "pt", **changes}
    return pipeline()(prompts, generator=generators, **settings).images.float().clamp(0, 1)


def test_it_is_small_safe_and_made_of_stock_parts():
    files = [path for path in text_to_image().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt", ".model"}
    index = json.loads((text_to_image() / "model_index.json").read_text())
    libraries = {value[0] for value in index.values() if isinstance(value, list)}
    assert libraries <= {"diffusers", "transformers", None}


def test_it_draws_every_shape_and_colour_that_it_is_said_to_know():
    # Every shape and every colour six times, each combination once; 9 of 10 is what the model is held to.
    combinations = list(itertools.product(COLOURS, SHAPES))
    pictures = draw([f"a {colour} {shape}" for colour, shape in combinations])
    named = RenderClassifier.bundled().name(pictures)
    right = [name == wanted for name, wanted in zip(named, combinations, strict=True)]
    assert sum(right) >= 0.9 * len(right)
    for k, names in enumerate((COLOURS, SHAPES)):
        for name in names:
            assert sum(ok for ok, wanted in zip(right, combinations, strict=True) if wanted[k] == name) >= 4


def test_the_shape_and_the_place_come_from_the_seed_and_repeat():
    one, other = draw(["a pink star"] * 2, num_inference_steps=8)
    again = draw(["a pink star"] * 2, num_inference_steps=8)[0]
    assert torch.equal(one, again)
    assert (one - other).abs().mean() > 0.02


def test_the_default_output_is_a_picture_of_64_pixels():
    images = pipeline()(
        "a blue moon",
        generator=torch.Generator().manual_seed(0),
        **{**TEXT_TO_IMAGE_DEFAULTS, "num_inference_steps": 4},
    ).images
    assert isinstance(images[0], Image.Image) and images[0].size == (64, 64)
    assert np.asarray(images[0]).std() > 10


@pytest.mark.parametrize("shape", SHAPES)
def test_the_colours_share_their_luminance(shape):
    # Squared distance aligns what two pictures share: colours of unequal brightness would hide the coupling.
    pictures = draw([f"a {colour} {shape}" for colour in COLOURS], num_inference_steps=12)
    luminance = (pictures * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1).flatten(1).quantile(0.98, 1)
    assert luminance.max() / luminance.min() < 1.25
