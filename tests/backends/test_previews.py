"""Pictures of predictions: right colours at right places, for every family, by every way."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, FluxPipeline, WanPipeline
from PIL import Image

import couple
from couple import autoencoders, bundled, scenes
from couple.backends import flux
from couple.backends.previews import APART, SHOWN, SIDE, Painter, components, local_decoder, projection
from tests.tiny import FAMILIES


def tensor(picture):
    return torch.from_numpy(np.asarray(picture.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1


def psnr(one, other):
    return float(10 * torch.log10(4 / (one - other).square().mean()))


@pytest.fixture(scope="module")
def bundled_pictures():
    """Twelve photographs-to-be in [-1, 1], with what the bundled image model's autoencoder makes of them."""
    pipeline = FluxPipeline.from_pretrained(bundled.text_to_image())
    pictures = torch.stack([tensor(picture) for picture in scenes.load(bundled.scene()).fitted(64, 64).pictures()])
    with torch.no_grad():
        return pipeline, pictures, autoencoders.encode(pipeline.vae, pictures)


def test_a_projection_shows_what_was_encoded(bundled_pictures):
    pipeline, pictures, latents = bundled_pictures
    painter = Painter(couple.Trajectory(pipeline, prompt="x", height=64, width=64))
    found = torch.stack([tensor(painter(flux.pack(latents[k : k + 1]))) for k in range(3)])
    assert painter.how == "projection"
    assert found.shape == (3, 3, 64, 64)
    assert psnr(found, pictures[:3]) > 24
    assert psnr(found, pictures[1:4]) < 20


def test_a_projection_is_fitted_once_and_the_same_every_time(bundled_pictures):
    pipeline, _, latents = bundled_pictures
    assert projection(pipeline.vae) is projection(pipeline.vae)
    twin = AutoencoderKL.from_config(pipeline.vae.config)
    twin.load_state_dict(pipeline.vae.state_dict())
    torch.testing.assert_close(projection(twin)(latents), projection(pipeline.vae)(latents), atol=1e-4, rtol=1e-4)


def watched(name):
    trajectory = couple.Trajectory(FAMILIES[name].pipeline(), **FAMILIES[name].arguments(0))
    painter, pictures = Painter(trajectory), []
    result = couple.sample(
        [trajectory], callback=lambda info: pictures.append(painter(info.x0[trajectory])), progress=False
    )
    return painter.how, pictures, result[trajectory][0]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_can_be_watched(name):
    how, pictures, _ = watched(name)
    assert how == ("components" if name == "ltx" else "projection")
    assert len({picture.size for picture in pictures}) == 1 and pictures[0].mode == "RGB"
    assert pictures[0].height <= SIDE and pictures[0].width <= SIDE * SHOWN + SIDE
    assert len({picture.tobytes() for picture in pictures}) > 1


@pytest.mark.parametrize("name", ["flux", "instruct_pix2pix", "wan"])
def test_a_run_that_is_watched_gives_what_it_gives_alone(name):
    *_, result = watched(name)
    trajectory = couple.Trajectory(FAMILIES[name].pipeline(), **FAMILIES[name].arguments(0))
    alone = couple.sample([trajectory], progress=False)[trajectory][0]
    assert torch.equal(torch.as_tensor(result), torch.as_tensor(alone))


def test_tokens_are_laid_out_in_the_shape_asked_for():
    pipeline = FAMILIES["flux"].pipeline()
    painter = Painter(couple.Trajectory(pipeline, prompt="x", height=32, width=64))
    latents = torch.zeros(1, 4, 8, 16)
    latents[..., :8] = 3.0
    picture = np.asarray(painter(flux.pack(latents)).convert("L")).astype(int)
    height, width = picture.shape
    assert width == 2 * height
    assert np.ptp(picture.mean(0)) > 10 * np.ptp(picture.mean(1))


def test_views_and_frames_are_spread_over_a_row():
    pipeline = FAMILIES["wan"].pipeline()
    painter = Painter(couple.Trajectory(pipeline, prompt="x"))
    channels = pipeline.vae.config.z_dim
    x0 = torch.randn(1, channels, 9, 4, 6, generator=torch.Generator().manual_seed(0))
    row = painter(x0)
    first = painter(x0[:, :, :1])
    apart = max(first.height // APART, 1)
    assert row.size == (first.width * SHOWN + apart * (SHOWN - 1), first.height)
    assert row.crop((0, 0, *first.size)).tobytes() == first.tobytes()


def test_later_frames_of_a_video_show_what_was_filmed():
    pipeline = WanPipeline.from_pretrained(bundled.text_to_video())
    ground = torch.full((1, 3, 13, 32, 32), -0.8)
    for frame in range(13):  # a square that goes down and to the right
        ground[:, :2, frame, 2 + frame : 10 + frame, 2 + frame : 10 + frame] = 0.8
    with torch.no_grad():
        latents = pipeline.vae.encode(ground).latent_dist.mode()
    assert latents.shape[2] == SHOWN and set(autoencoders.scale_and_shift(pipeline.vae)[0]) == {1.0}
    painter = Painter(couple.Trajectory(pipeline, prompt="x"))
    row = tensor(painter(latents))
    assert painter.how == "projection"
    shown = [row[:, :, 33 * k : 33 * k + 32] for k in range(SHOWN)]
    found = [[psnr(picture, ground[0, :, frame]) for frame in (0, 4, 8, 12)] for picture in shown]
    assert [max(range(4), key=row.__getitem__) for row in found] == [0, 1, 2, 3]
    assert min(found[k][k] for k in range(4)) > 20


def test_a_state_without_an_autoencoder_is_shown_as_it_is_or_by_its_components():
    model = couple.ExactDenoiser.gaussian(torch.zeros(3, 8, 8), 1.0)
    pipeline = couple.DenoiserPipeline(model, FAMILIES["flux"].pipeline().scheduler)
    pixels = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    painter = Painter(couple.Trajectory(pipeline, shape=(1, 3, 8, 8)))
    torch.testing.assert_close(tensor(painter(pixels)), pixels[0], atol=1 / 127, rtol=0)
    assert painter.how == "pixels"
    pixels[0, 1, 2, 3] = float("nan")
    assert tensor(painter(pixels))[1, 2, 3].abs() < 0.01

    painter = Painter(couple.Trajectory(pipeline, shape=(1, 5, 8, 8)))
    x0 = torch.randn(1, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    x0[0, 3, :4] += 9
    picture = np.asarray(painter(x0)).astype(int)
    assert painter.how == "components"
    assert abs(picture[:4, :, 0].mean() - picture[4:, :, 0].mean()) > 80
    assert components(torch.zeros(1, 2, 4, 4))(torch.zeros(1, 2, 4, 4)).shape == (1, 3, 4, 4)

    with pytest.raises(ValueError, match=r"shape \(1, 7\) of 'DenoiserPipeline' is no picture"):
        painter(torch.zeros(1, 7))


def tiny():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4).eval()


def test_a_tiny_decoder_is_used_where_it_is_given():
    decoder, pipeline = tiny(), FAMILIES["sd21"].pipeline()
    x0 = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    painter = Painter(couple.Trajectory(pipeline, prompt="x"), decoder)
    picture = painter(x0)
    assert painter.how == "decoder"
    with torch.no_grad():
        torch.testing.assert_close(
            tensor(picture), decoder.decode(x0, return_dict=False)[0][0].clamp(-1, 1), atol=1 / 127, rtol=0
        )
    with pytest.raises(TypeError, match="`decoder` must be a diffusers autoencoder"):
        Painter(couple.Trajectory(pipeline, prompt="x"), Image)
    # One for other latents is of no use.
    painter = Painter(couple.Trajectory(FAMILIES["wan"].pipeline(), prompt="x"), decoder)
    painter(torch.zeros(1, FAMILIES["wan"].pipeline().vae.config.z_dim, 1, 4, 4))
    assert painter.how == "projection"


def test_a_tiny_decoder_in_the_local_cache_is_found(tmp_path):
    vae = FAMILIES["sd21"].pipeline().vae
    assert vae.config.scaling_factor == 0.18215
    assert local_decoder(vae, tmp_path) is None
    repository = tmp_path / "models--madebyollin--taesd"
    tiny().save_pretrained(repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    found = local_decoder(vae, tmp_path)
    assert isinstance(found, AutoencoderTiny)
    assert local_decoder(FAMILIES["wan"].pipeline().vae, tmp_path) is None
