"""The nearest true edit of a true edit is itself, and that of anything else is a true edit."""

import math

import pytest
import torch

from couple.bundled.blocks import DARKER, PALETTES, STYLES, random_blocks, random_light, render, ring
from couple.metrics.fidelity import psnr
from couple.reproduce.nearest import APART, Paints, Suns, hsv, into
from couple.reproduce.scenes import case

CAMERAS = ring(torch.tensor([0.3, 0.9]), 0.5)


def world(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return random_blocks(1, generator), random_light(1, generator), generator


@pytest.mark.parametrize("seed", [1, 4])
def test_a_new_sun_is_found(seed):
    scene, old, generator = world(seed)
    new = random_light(1, generator)
    truth = render(scene, [new], [CAMERAS])[0].pictures[0]
    suns = Suns(scene, CAMERAS, old)
    found = suns.nearest(truth)
    assert math.degrees(math.acos(float((found.direction * new.direction).sum()))) < 5
    assert (found.colour - new.colour).abs().max() < 0.05
    assert psnr(suns.render(truth), truth).mean() > 30


def test_the_old_sun_is_no_new_one():
    scene, old, _ = world(2)
    truth = render(scene, [old], [CAMERAS])[0].pictures[0]
    found = Suns(scene, CAMERAS, old).nearest(truth)
    assert float((found.direction * old.direction).sum()) < math.cos(APART) + 1e-6


@pytest.mark.parametrize("style", ["winter", "toy", "night"])
def test_paints_of_a_style_are_found(style):
    scene, light, generator = world(5)
    restyled = scene.restyled(torch.tensor([STYLES.index(style)]), generator)
    truth = render(restyled, [light], [CAMERAS])[0].pictures[0]
    paints = Paints(scene, CAMERAS, light, style)
    assert psnr(paints.render(truth), truth).mean() > 40
    found = paints.nearest(truth)
    assert (found.sky - restyled.sky).abs().max() < 0.02
    assert (found.ground[0, 0] - restyled.ground[0, 0]).abs().max() < 0.06  # lit snow is clipped


def test_paints_stay_in_the_style():
    scene, light, _ = world(6)
    pictures = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    found = Paints(scene, CAMERAS, light, "desert").nearest(pictures)
    ground, objects, sky = (torch.tensor(part).unflatten(0, (3, 2)) for part in PALETTES["desert"])
    for colour, ranges in ((found.ground[0, 0], ground), (found.colour[0, 0], objects), (found.sky[0], sky)):
        assert torch.allclose(into(colour, ranges), colour, atol=1e-5)
    share = found.ground[0, 1] / found.ground[0, 0]
    assert (share > DARKER[0] - 1e-5).all() and (share < DARKER[1] + 1e-5).all()


@pytest.mark.parametrize(
    ("hue", "ends", "expected"),
    [(0.95, (-0.03, 0.1), 0.97), (0.2, (-0.03, 0.1), 0.1), (0.05, (-0.03, 0.1), 0.05), (0.7, (0.0, 1.0), 0.7)],
)
def test_hue_goes_round(hue, ends, expected):
    from couple.bundled.blocks import rgb

    colour = rgb(torch.tensor([hue, 0.5, 0.5]))
    assert hsv(colour)[0] == pytest.approx(hue, abs=1e-5)
    turned = hsv(into(colour, torch.tensor([ends, (0.0, 1.0), (0.0, 1.0)])))[0]
    assert turned == pytest.approx(expected, abs=1e-5)


def test_cases_are_told_by_their_number():
    first, again, other = case("move", 7), case("move", 7), case("move", 8)
    assert torch.equal(first.shown["image"], again.shown["image"])
    assert not torch.equal(first.truth, other.truth)
    assert first.nearest(first.pictures) is first.truth
