"""Pipelines of one latent space couple; those of two are refused unless a bridge joins them."""

import copy
import functools

import pytest
import torch
from accelerate import cpu_offload
from diffusers import AutoencoderTiny, DDIMScheduler

import couple
from couple import latents, maps
from couple.backends import flux
from tests.tiny import FAMILIES
from tests.tiny.building import module
from tests.tiny.stable_diffusion import autoencoder


class Painter:
    """Denoises zeros in the latents of an autoencoder; `calls` counts what ran."""

    calls = 0

    def __init__(self, vae=None):
        self.vae = vae
        self.scheduler = DDIMScheduler()

    def __call__(self, generator=None, shape=(1, 4, 8, 8)):
        Painter.calls += 1
        self.scheduler.set_timesteps(2)
        x = torch.randn(shape, generator=generator)
        for t in self.scheduler.timesteps:
            x = self.scheduler.step(torch.zeros_like(x), t, x).prev_sample
        return x


class TokenPainter(Painter):
    @staticmethod
    def _pack_latents(latents):
        return flux.pack(latents)

    def __call__(self, generator=None):
        return super().__call__(generator, (1, 16, 16))


def other_autoencoder():
    """The same architecture, trained apart."""
    vae = copy.deepcopy(autoencoder())
    draw = torch.Generator().manual_seed(1)
    for weight in vae.parameters():
        weight.copy_(torch.randn(weight.shape, generator=draw) * 0.2)
    return vae


def node(pipeline, name):
    return couple.Trajectory(pipeline, name=name, generator=torch.Generator().manual_seed(len(name)))


def sample(a, b, edges):
    return couple.sample([a, b], edges, progress=False)


def couples(pipeline_a, pipeline_b):
    a, b = node(pipeline_a, "a"), node(pipeline_b, "bb")
    return sample(a, b, couple.pair(a, b, weight=0.1))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_space_that_it_shares_with_itself(family):
    pipeline = FAMILIES[family].pipeline()
    found = latents.space(pipeline)
    assert found is not None and len(found.encoder) == 12
    assert found.packing == (
        "tokens" if family in ("flux", "flux_kontext", "flux2_klein", "qwen_image", "ltx") else "picture"
    )
    twin = copy.copy(pipeline)
    twin.__dict__["vae"] = copy.deepcopy(pipeline.vae)
    assert latents.space(twin) == found


def test_a_space_says_how_latents_are_scaled():
    assert latents.space(FAMILIES["sd21"].pipeline()).scale == (0.18215,)
    assert latents.space(FAMILIES["flux"].pipeline()).shift == (0.1159,)
    qwen = latents.space(FAMILIES["qwen_image"].pipeline())
    assert qwen.scale == (1.0, 0.5, 1 / 1.5, 2.0)
    assert qwen.shift == (0.1, -0.2, 0.0, 0.3)
    assert len(latents.space(FAMILIES["flux2_klein"].pipeline()).scale) == 16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_one_autoencoder_loaded_in_two_dtypes_is_one_space(dtype):
    rounded = copy.deepcopy(autoencoder()).to(dtype)
    assert latents.space(Painter(rounded)) == latents.space(Painter(autoencoder()))
    assert couples(Painter(rounded), Painter(autoencoder()))


def test_a_batch_norm_rounded_to_bfloat16_still_scales_alike():
    vae = copy.deepcopy(FAMILIES["flux2_klein"].pipeline().vae)
    draw = torch.Generator().manual_seed(0)
    vae.bn.running_mean.copy_(torch.randn(16, generator=draw))
    vae.bn.running_var.copy_(torch.rand(16, generator=draw) + 0.5)
    exact, rounded = (latents.space(TokenPainter(v)) for v in (vae, copy.deepcopy(vae).bfloat16()))
    assert exact.shift != rounded.shift
    assert exact.differences(rounded) == []
    vae.bn.running_mean[3] *= 1.01
    assert exact.differences(latents.space(TokenPainter(vae)))[0].startswith("shift (")


def test_decoders_may_differ_and_encoders_may_not():
    decoder, encoder, quantizer = (copy.deepcopy(autoencoder()) for _ in range(3))
    decoder.decoder.conv_in.weight.neg_()
    encoder.encoder.conv_in.weight[0, 0, 0, 0].neg_()
    quantizer.quant_conv.weight[0].neg_()
    found = latents.space(Painter(autoencoder()))
    assert latents.space(Painter(decoder)) == found
    assert latents.space(Painter(encoder)) != found
    assert latents.space(Painter(quantizer)) != found
    assert couples(Painter(decoder), Painter(autoencoder()))


def test_weights_of_another_shape_are_another_encoder():
    flipped = copy.deepcopy(autoencoder())
    kernel = flipped.encoder.conv_in.weight
    flipped.encoder.conv_in.weight = torch.nn.Parameter(kernel.reshape(kernel.shape[1], -1, 3, 3))
    assert latents.space(Painter(flipped)) != latents.space(Painter(autoencoder()))


def test_what_has_no_space_couples_with_anything():
    tiny = module(
        AutoencoderTiny, encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1),
    )  # fmt: skip
    unloaded = copy.deepcopy(other_autoencoder()).to("meta")
    for vae in (None, "a name", torch.nn.Identity(), tiny, unloaded):
        assert latents.space(Painter(vae)) is None
        assert couples(Painter(vae), Painter(autoencoder()))


def test_weights_that_accelerate_keeps_elsewhere_are_read_and_left_there():
    away = copy.deepcopy(autoencoder())
    cpu_offload(away, torch.device("cpu"))
    assert latents.space(Painter(away)) == latents.space(Painter(autoencoder()))
    assert {weight.device.type for weight in away.parameters()} == {"meta"}


def test_one_autoencoder_held_by_both_is_not_read(monkeypatch):
    vae = copy.deepcopy(autoencoder())
    monkeypatch.setattr(torch, "signbit", lambda *_: pytest.fail("weights were read"))
    assert couples(Painter(vae), Painter(vae))


def test_an_autoencoder_is_read_once_however_many_edges_there_are(monkeypatch):
    reads, signbit = [], torch.signbit
    monkeypatch.setattr(torch, "signbit", lambda x: reads.append(x.shape) or signbit(x))
    vaes = [copy.deepcopy(autoencoder()) for _ in range(3)]
    latents.space(Painter(vaes[0]))
    once = len(reads)
    latents.check(couple.complete([node(Painter(vaes[k % 3]), "n" * k) for k in range(1, 7)], weight=0.1))
    assert once > 0 and len(reads) == 4 * once


BOTH_WAYS = (
    "couple.pair(a.through(maps.bridge(a.pipeline.vae, b.pipeline.vae)), b, weight=..., directed=True)"
    " + couple.pair(b.through(maps.bridge(b.pipeline.vae, a.pipeline.vae)), a, weight=..., directed=True)."
)


def refusal(a, b, **options):
    Painter.calls = 0
    with pytest.raises(ValueError) as caught:
        sample(a, b, couple.pair(a, b, weight=0.1, **options))
    assert Painter.calls == 0
    return str(caught.value)


def test_encoders_trained_apart_are_refused_with_the_bridges_as_the_fix():
    cat, fox = node(Painter(autoencoder()), "cat"), node(Painter(other_autoencoder()), "fox")
    message = refusal(cat, fox)
    names = [latents.space(t.pipeline).encoder for t in (cat, fox)]
    assert message.startswith(
        "edge 'cat' - 'fox': equal latents of 'cat' and 'fox' are different pictures "
        f"(encoder weights {names[0]} against {names[1]}). Bridge them, where a and b are the trajectories: {BOTH_WAYS}"
    )
    assert message.endswith("a.through(torch.nn.Identity()).")
    directed = refusal(cat, fox, directed=True)
    assert BOTH_WAYS.split(" + ")[0] + ". " in directed and " + " not in directed


def test_a_scale_or_a_shift_of_its_own_is_named():
    cat = node(Painter(autoencoder()), "cat")
    scaled = copy.deepcopy(autoencoder())
    scaled.register_to_config(scaling_factor=0.13025, shift_factor=0.25)
    message = refusal(cat, node(Painter(scaled), "fox"))
    assert "(scale 0.18215 against 0.13025, shift 0 against 0.25)" in message
    a, b = (latents.space(FAMILIES[name].pipeline()) for name in ("qwen_image", "wan"))
    assert "shift (0.1, ... 4 numbers) against (-0.7571, ... 16 numbers)" in a.differences(b)


@pytest.mark.parametrize(
    "map", [maps.crop(0, 0, 4, 4), maps.resize(4, 4), maps.low_pass(2), maps.frame(0)], ids=maps.call
)
@pytest.mark.parametrize("vae", [None, autoencoder()], ids=["unnamed", "named"])
def test_tokens_have_no_places_to_look_at(map, vae):
    cat, fox = node(TokenPainter(vae), "cat"), node(TokenPainter(vae), "fox")
    unpacked = functools.partial(flux.unpack, height=8, width=8)
    Painter.calls = 0
    for end in cat.through(map), cat[0].through(map):
        with pytest.raises(ValueError, match=r"view 'cat.* the state has 3 axes, those of tokens.*flux.unpack"):
            sample(cat, fox, couple.pair(end, fox, weight=0.1))
    if isinstance(map, maps.low_pass):
        with pytest.raises(ValueError, match=r"edge 'cat' - 'fox\[0\]': low_pass\(2\) works on a picture.*flux.unpack"):
            sample(cat, fox, couple.pair(cat, fox[0], weight=0.1, energy=couple.energies.low_pass(2)))
    assert Painter.calls == 0
    if not isinstance(map, maps.frame):
        ends = [end.through(unpacked).through(map) for end in (cat, fox)]
        assert sample(cat, fox, couple.pair(*ends, weight=0.1, energy=couple.energies.low_pass(2)))


def test_a_name_is_no_pipeline():
    for given in ("flux", node(Painter(), "cat"), Painter):
        with pytest.raises(TypeError, match="`pipeline` must be a pipeline, such as trajectory.pipeline; got"):
            latents.space(given)


def test_tokens_against_a_picture_are_refused_with_unpacking_as_the_fix():
    cat, fox = node(TokenPainter(autoencoder()), "cat"), node(Painter(autoencoder()), "fox")
    message = refusal(cat, fox)
    assert "(tokens against a picture)" in message
    assert "functools.partial(couple.backends.flux.unpack, height=H, width=W)" in message
    assert "bridge" not in message
    assert sample(cat, fox, couple.pair(cat.through(lambda x: flux.unpack(x, 8, 8)), fox, weight=0.1))
    both = refusal(cat, node(TokenPainter(other_autoencoder()), "fox"))
    assert BOTH_WAYS + " Make a picture of the tokens first, a.through(functools.partial(" in both


@pytest.mark.parametrize(
    "map", [maps.row(0), maps.crop(0, 0, 4, 4), maps.resize(4, 4), maps.low_pass(2)], ids=maps.call
)
def test_maps_that_leave_latents_latents_change_nothing(map):
    cat, fox = node(Painter(autoencoder()), "cat"), node(Painter(other_autoencoder()), "fox")
    with pytest.raises(ValueError, match="encoder weights"):
        sample(cat, fox, couple.pair(cat.through(map), fox.through(map), weight=0.1))


def test_a_map_of_the_user_is_believed():
    cat, fox = node(Painter(autoencoder()), "cat"), node(Painter(other_autoencoder()), "fox")
    assert sample(cat, fox, couple.pair(cat, fox.through(torch.nn.Identity()), weight=0.1))


def test_a_bridge_must_lead_from_one_end_to_the_other():
    cat, fox = node(Painter(autoencoder()), "cat"), node(Painter(other_autoencoder()), "fox")
    there = maps.bridge(cat.pipeline.vae, fox.pipeline.vae)
    back = maps.bridge(fox.pipeline.vae, cat.pipeline.vae)
    assert sample(cat, fox, couple.pair(cat.through(there), fox, weight=0.1, directed=True))
    with pytest.raises(
        ValueError,
        match=r"the bridge does not start in the latents of 'cat' \(encoder.*maps.bridge\(cat.pipeline.vae, ...\)",
    ):
        sample(cat, fox, couple.pair(cat.through(back), fox, weight=0.1, directed=True))
    with pytest.raises(ValueError, match="encoder weights"):
        sample(cat, fox, couple.pair(cat.through(there).through(back), fox, weight=0.1, directed=True))


def test_tokens_are_unpacked_before_a_bridge():
    cat, fox = node(TokenPainter(autoencoder()), "cat"), node(Painter(other_autoencoder()), "fox")
    there = maps.bridge(cat.pipeline.vae, fox.pipeline.vae)
    with pytest.raises(
        ValueError, match=r"does not start in the latents of 'cat' \(tokens against a picture\).*flux.unpack"
    ):
        sample(cat, fox, couple.pair(cat.through(there), fox, weight=0.1, directed=True))
    end = cat.through(lambda x: flux.unpack(x, 8, 8)).through(there)
    assert sample(cat, fox, couple.pair(end, fox, weight=0.1, directed=True))
