"""The bundled text-to-video model as a user meets it: a plain `WanPipeline` that films what the prompt says."""

import functools
import itertools
import json

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline

import couple
from couple import weights
from couple.bundled import COLOURS, MOTIONS, SPRITES, TEXT_TO_VIDEO_DEFAULTS, TEXT_TO_VIDEO_UNTIL, text_to_video
from couple.metrics.clips import ClipClassifier, path_distance


@functools.cache
def pipeline():
    pipe = WanPipeline.from_pretrained(text_to_video())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def settings(seeds, **changes):
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return {**TEXT_TO_VIDEO_DEFAULTS, "generator": generators, "output_type": "pt", **changes}


def film(prompts, **changes):
    return pipeline()(prompts, **settings(range(len(prompts)), **changes)).frames.float().clamp(0, 1)


def test_it_is_small_safe_and_made_of_stock_parts():
    files = [path for path in text_to_video().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 12e6
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".txt", ".model"}
    index = json.loads((text_to_video() / "model_index.json").read_text())
    libraries = {value[0] for value in index.values() if isinstance(value, list)}
    assert libraries <= {"diffusers", "transformers", None}


def test_its_scheduler_is_the_one_wan_ships_with():
    assert isinstance(pipeline().scheduler, UniPCMultistepScheduler)
    assert pipeline().scheduler.config.prediction_type == "flow_prediction"


def test_it_films_every_shape_and_motion_that_it_is_said_to_know():
    # Each shape with each motion once, each colour four times; 9 of 10 is what the model is held to.
    combinations = [
        (COLOURS[k % len(COLOURS)], shape, motion)
        for k, (motion, shape) in enumerate(itertools.product(MOTIONS, SPRITES))
    ]
    videos = film([f"a {colour} {shape} {motion}" for colour, shape, motion in combinations])
    named = ClipClassifier.bundled().name(videos)
    right = [name == wanted for name, wanted in zip(named, combinations, strict=True)]
    assert sum(right) >= 0.9 * len(right)


def test_coupled_sprites_move_together_and_stay_what_their_prompts_say():
    looks = [(("blue", "square"), ("pink", "star")), (("green", "triangle"), ("yellow", "circle"))]
    pairs = [[(*look, motion) for look in looks[k % 2]] for k, motion in enumerate(MOTIONS)]

    def together(weight):
        nodes = [
            couple.Trajectory(
                pipeline(),
                prompt=[f"a {' '.join(pair[side])}" for pair in pairs],
                **settings(2 * k + side for k in range(len(pairs))),
            )
            for side in (0, 1)
        ]
        result = couple.sample(nodes, couple.pair(*nodes, weight=weight), progress=False)
        return [result[node].frames.float().clamp(0, 1) for node in nodes]

    apart, near = together(0.0), together(weights.window(weights.relax(1.0), 0.0, TEXT_TO_VIDEO_UNTIL))
    assert path_distance(*near).mean() < path_distance(*apart).mean() / 3
    named = [ClipClassifier.bundled().name(side) for side in near]
    right = [named[side][k] == pair[side] for k, pair in enumerate(pairs) for side in (0, 1)]
    assert sum(right) >= 0.75 * len(right)


def test_the_path_comes_from_the_seed_and_repeats():
    one, other = film(["a pink star bounces"] * 2, num_inference_steps=6)
    again = film(["a pink star bounces"] * 2, num_inference_steps=6)[0]
    assert torch.equal(one, again)
    assert (one - other).abs().mean() > 0.01


def test_the_default_output_is_thirteen_frames_of_32_pixels():
    frames = pipeline()("a blue circle circles", **settings([0], num_inference_steps=4, output_type="np")).frames
    assert frames.shape == (1, 13, 32, 32, 3) and np.asarray(frames).std() > 0.03


def test_its_autoencoder_reads_and_draws_its_own_videos():
    videos = film(["a blue square moves left", "a pink star circles"]).transpose(1, 2) * 2 - 1
    with torch.no_grad():
        latents = pipeline().vae.encode(videos).latent_dist.mode()
        drawn = pipeline().vae.decode(latents).sample
    assert latents.shape == (2, 48, 4, 4, 4)
    assert (drawn - videos).square().mean() < 0.01


@pytest.mark.parametrize("motion", MOTIONS)
def test_the_classifier_tells_a_path_from_its_reverse(motion):
    video = film([f"a yellow square {motion}"], num_inference_steps=12)
    named = ClipClassifier.bundled().name(video.flip(1))[0][2]
    opposite = {"moves left": "moves right", "moves right": "moves left"}
    opposite |= {"moves up": "moves down", "moves down": "moves up"}
    assert named == opposite.get(motion, named)
