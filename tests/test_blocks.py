"""The ray-traced world of the bundled editing models, against sphere tracing of signed distances in numpy."""

import math

import numpy as np
import pytest
import torch

from couple.bundled.blocks import STYLES, Light, random_blocks, random_light, render, ring

SIZE = 24


def world(count=3, views=2, seed=5):
    generator = torch.Generator().manual_seed(seed)
    scenes, light = random_blocks(count, generator), random_light(count, generator)
    cameras = [ring(0.9 * torch.arange(views) + i, 0.3 + 0.2 * i, SIZE) for i in range(count)]
    return scenes, light, cameras


def distances(scenes, i, points):
    """Signed distance to each slot and to the ground, shape (..., 5)."""
    parts = []
    for slot in range(4):
        half = scenes.half[i, slot].double().numpy()
        centre = np.array([*scenes.place[i, slot].double().numpy(), half[2]])
        away, turn = points - centre, float(scenes.turn[i, slot])
        x = math.cos(turn) * away[..., 0] + math.sin(turn) * away[..., 1]
        y = -math.sin(turn) * away[..., 0] + math.cos(turn) * away[..., 1]
        z = away[..., 2]
        if slot < 2:
            q = np.abs(np.stack([x, y, z], -1)) - half
            d = np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0)
        elif slot == 2:
            d = np.linalg.norm(away, axis=-1) - half[0]
        else:
            q = np.stack([np.hypot(x, y) - half[0], np.abs(z) - half[2]], -1)
            d = np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0)
        parts.append(d if scenes.present[i, slot] else np.full_like(d, 1e3))
    return np.stack([*parts, points[..., 2]], -1)


def march(scenes, i, origin, direction, steps=400):
    travelled = np.full(direction.shape[:-1], 1e-3)
    for _ in range(steps):
        step = distances(scenes, i, origin + travelled[..., None] * direction).min(-1)
        travelled = np.minimum(travelled + step, 60.0)
    return travelled, distances(scenes, i, origin + travelled[..., None] * direction)


def pixel_rays(camera):
    grid = np.arange(SIZE) + 0.5
    x, y = np.meshgrid(grid, grid)
    inside = np.linalg.inv(camera.K[0].numpy()) @ np.stack([x, y, np.ones_like(x)]).reshape(3, -1)
    pose = camera.c2w[0].numpy()
    direction = (pose[:3, :3] @ inside).T
    return pose[:3, 3], direction / np.linalg.norm(direction, axis=1, keepdims=True), pose[:3, 2]


@pytest.mark.parametrize("i", range(3))
def test_depth_and_slots_agree_with_sphere_tracing(i):
    scenes, light, cameras = world()
    drawn = render(scenes, [light], cameras)[0]
    origin, direction, forward = pixel_rays(cameras[i][1])
    travelled, near = march(scenes, i, origin, direction)
    hit = near.min(-1) < 1e-4
    depth, slot = drawn.depth[i, 1].flatten().numpy(), drawn.slot[i, 1].flatten().numpy()
    # A ray that grazes an edge may end on either side of it.
    sure = hit & (np.abs(travelled * (direction @ forward) - depth) < 1e-3 * depth)
    seen = np.isfinite(depth) & (depth < 40)
    assert sure[seen].mean() > 0.99
    clear = sure & (np.sort(near, -1)[:, 1] > 1e-2)
    assert (near.argmin(-1) == slot)[clear].all()
    assert (slot[~np.isfinite(depth)] == 5).all()


def test_shadows_are_where_the_sun_is_hidden():
    scenes, light, cameras = world()
    lit, dark = (
        render(scenes, [sun], cameras, samples=1)[0] for sun in (light, Light(light.direction, 0 * light.colour))
    )
    for i in range(3):
        origin, direction, forward = pixel_rays(cameras[i][0])
        on_ground = (lit.slot[i, 0] == 4) & (lit.depth[i, 0] < 4)
        rows = on_ground.flatten().numpy()
        along = lit.depth[i, 0].flatten().double().numpy() / (direction @ forward)
        points = origin + along[rows, None] * direction[rows] + [0, 0, 4e-3]
        sun = light.direction[i].double().numpy()
        free = np.full(len(points), 1e3)
        for step in np.linspace(0.01, 4, 800):
            free = np.minimum(free, distances(scenes, i, points + step * sun)[:, :4].min(-1))
        gain = (lit.pictures[i, 0] - dark.pictures[i, 0]).sum(0).flatten().numpy()[rows]
        shaded, open_ = gain[free < -0.02], gain[free > 0.02]
        assert len(shaded) and len(open_)
        # Nothing in shade is lit as much as anything in the open, given how the ground's paint differs.
        assert np.median(shaded) < 0.5 * np.median(open_)


def test_geometry_colours_and_light_are_three_separate_things():
    scenes, light, cameras = world()
    generator = torch.Generator().manual_seed(1)
    drawn = render(scenes, [light, random_light(3, generator)], cameras)
    painted = render(scenes.restyled(torch.tensor([0, 1, 2]), generator), [light], cameras)[0]
    for other in (drawn[1], painted):
        assert torch.equal(other.depth, drawn[0].depth) and torch.equal(other.slot, drawn[0].slot)
        assert (other.pictures - drawn[0].pictures).abs().mean() > 0.01
    moved = render(scenes.moved(torch.tensor([0, 1, 2]), torch.full((3, 2), 0.2)), [light], cameras)[0]
    assert not torch.equal(moved.depth, drawn[0].depth)


def test_objects_never_touch_and_something_always_stands():
    scenes = random_blocks(500, torch.Generator().manual_seed(0))
    assert scenes.present.sum(1).min() >= 2 and scenes.present.sum(1).max() == 4
    reach = torch.where(
        torch.tensor([True, True, False, False]), scenes.half[..., :2].norm(dim=-1), scenes.half[..., 0]
    )
    apart = (scenes.place[:, :, None] - scenes.place[:, None]).norm(dim=-1)
    gap = apart - reach[:, :, None] - reach[:, None]
    both = scenes.present[:, :, None] & scenes.present[:, None] & ~torch.eye(4, dtype=torch.bool)
    # Sizes and places are drawn apart: a corner may reach into a neighbour's circle, rarely.
    assert (gap[both] < 0).float().mean() < 0.05


def test_a_seed_is_a_scene():
    one, two = (render(*_two(world(seed=9)))[0].pictures for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, render(*_two(world(seed=10)))[0].pictures)
    assert one.min() >= 0 and one.max() <= 1


def _two(parts):
    scenes, light, cameras = parts
    return scenes, [light], cameras


@pytest.mark.parametrize("style", STYLES)
def test_styles_have_their_own_ground(style):
    scenes = random_blocks(64, torch.Generator().manual_seed(0))
    painted = scenes.restyled(torch.full((64,), STYLES.index(style)), torch.Generator().manual_seed(1))
    mean = painted.ground[:, 0].mean(0)
    warm, green, bright = mean[0] - mean[2], mean[1] - mean[0], mean.mean()
    expected = {
        "winter": bright > 0.85,
        "desert": warm > 0.2,
        "forest": green > 0.05,
        "candy": mean[0] - mean[1] > 0.15,
        "night": bright < 0.4,
        "toy": 0.6 < bright < 0.85,
    }
    assert expected[style]
    assert (painted.ground[:, 1] < painted.ground[:, 0] + 1e-6).all()
