"""The ring of cameras and the shifted schedule, by their geometry and their definition."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from couple.backends.mv_adapter import rig, shifted


def test_cameras_look_at_the_origin_from_their_distance_with_up_above():
    cameras = rig((0, 90, 200), elevation=(0, 30, -45), distance=(1, 2, 3), height=8, width=8)
    places = cameras.c2w[:, :3, 3]
    assert torch.allclose(places.norm(dim=-1), torch.tensor([1.0, 2, 3], dtype=torch.float64))
    assert torch.allclose(cameras.c2w[:, :3, 2], -places / places.norm(dim=-1, keepdim=True))
    assert (cameras.c2w[:, 2, 1] < 0).all()  # y of the picture runs down
    assert torch.allclose(cameras.c2w[:, 2, 0], torch.zeros(3, dtype=torch.float64))
    assert torch.allclose(places[0], torch.tensor([0.0, -1, 0], dtype=torch.float64), atol=1e-12)
    assert torch.allclose(places[1] / 2, torch.tensor([math.cos(math.pi / 6), 0, 0.5], dtype=torch.float64), atol=1e-12)


def test_the_pinholes_see_the_square_of_the_orthographic_views():
    cameras = rig((0, 45), height=32, width=64, distance=2.0)
    corner = cameras.c2w[0, :3, :3] @ torch.tensor([0.55, 0.55, 0.0], dtype=torch.float64)
    in_camera = cameras.w2c[0, :3, :3] @ corner + cameras.w2c[0, :3, 3]
    pixel = cameras.K[0] @ in_camera
    assert torch.allclose(pixel[:2] / pixel[2], torch.tensor([64.0, 32.0], dtype=torch.float64))


def test_a_rig_of_unequal_lists_is_refused():
    with pytest.raises(ValueError, match="`elevation` has 2 values for 3 azimuths; give one number or 3"):
        rig((0, 90, 180), elevation=(0, 10), height=8, width=8)
    with pytest.raises(ValueError, match="`azimuths` is empty"):
        rig((), height=8, width=8)


@pytest.mark.parametrize("cls", [DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler])
def test_shifting_divides_the_signal_to_noise_ratio(cls):
    base = cls(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    before = dict(base.config)

    def ratio(scheduler):
        return (scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)).double()

    grown, even = ratio(base) / ratio(shifted(base, 4.0)), ratio(base) / ratio(shifted(base, 4.0, interpolated=False))
    assert torch.allclose(grown, 4 ** torch.linspace(0, 1, 1000).double(), rtol=1e-2)
    assert torch.allclose(even, torch.full((1000,), 4.0).double(), rtol=1e-2)
    assert type(shifted(base)) is cls
    assert shifted(base).config.steps_offset == 1
    assert dict(base.config) == before


def test_a_schedule_is_shifted_once_and_only_where_there_are_betas():
    once = shifted(DDIMScheduler())
    with pytest.raises(ValueError, match="already has `trained_betas`; shift the base model's own"):
        shifted(once)
    with pytest.raises(ValueError, match=r"FlowMatchEulerDiscreteScheduler is not made of betas .* take e.g. DDPM"):
        shifted(FlowMatchEulerDiscreteScheduler())


def test_a_shifted_scheduler_survives_being_saved(tmp_path):
    scheduler = shifted(DDIMScheduler())
    scheduler.save_pretrained(tmp_path)
    assert torch.equal(DDIMScheduler.from_pretrained(tmp_path).betas, scheduler.betas)
