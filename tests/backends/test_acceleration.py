"""Attention backends and compiled blocks: they act, they say where they cannot, and nothing of them stays behind."""

import warnings

import pytest
import torch
from diffusers.models import attention_dispatch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0, XFormersAttnProcessor
from diffusers.utils import is_xformers_available
from torch._dynamo.utils import counters

import couple
from couple.backends.acceleration import attention_backend, available, compiled, constant_batch
from tests.tiny import FAMILIES


def denoiser(name):
    pipeline = FAMILIES[name].pipeline()
    return getattr(pipeline, "transformer", None) or pipeline.unet


def processors(name):
    return [layer.processor for layer in denoiser(name).modules() if hasattr(layer, "processor")]


def nodes(name, steps=(3, 3)):
    family = FAMILIES[name]
    return [
        couple.Trajectory(
            family.pipeline(),
            **{**family.arguments(k % 3), "num_inference_steps": count, "output_type": "latent"}
            | {"generator": torch.Generator().manual_seed(k)},
        )
        for k, count in enumerate(steps)
    ]


def run(name, steps=(3, 3), **options):
    trajectories = nodes(name, steps)
    result = couple.sample(trajectories, couple.chain(trajectories, weight=0.1), progress=False, **options)
    return [torch.as_tensor(result[node][0]) for node in trajectories]


@pytest.mark.parametrize("name", ["flux", "wan", "seva", "mvdream"])
def test_a_dispatching_network_attends_with_the_backend_and_then_again_with_its_own(name):
    processors(name)[0]._attention_backend = attention_dispatch.AttentionBackendName.NATIVE
    before = [(processor, processor._attention_backend) for processor in processors(name)]
    active = attention_dispatch._AttentionBackendRegistry.get_active_backend()
    with attention_backend("_native_math", FAMILIES[name].pipeline()):
        assert {processor._attention_backend for processor in processors(name)} == {"_native_math"}
        assert attention_dispatch._AttentionBackendRegistry.get_active_backend() == active
        run(name)
    assert [(processor, processor._attention_backend) for processor in processors(name)] == before
    processors(name)[0]._attention_backend = None


def test_another_backend_is_another_kernel_and_the_same_numbers():
    calls = []
    backends = attention_dispatch._AttentionBackendRegistry._backends
    kernel = backends["_native_math"]

    def counted(*args, **kwargs):
        calls.append(1)
        return kernel(*args, **kwargs)

    expected = run("flux")
    backends["_native_math"] = counted
    try:
        with attention_backend("_native_math", FAMILIES["flux"].pipeline()):
            found = run("flux")
        assert len(calls) == 3 * 2  # steps x blocks, merged
        again = run("flux")
        assert len(calls) == 3 * 2
    finally:
        backends["_native_math"] = kernel
    for one, other, last in zip(found, expected, again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        assert torch.equal(last, other)


def test_a_unet_on_which_the_dispatch_has_no_effect_is_switched_by_its_processors():
    unet = denoiser("sd21")
    stock = dict(unet.attn_processors)
    unet.set_attn_processor(AttnProcessor())
    try:
        plain = processors("sd21")
        with attention_backend("native", FAMILIES["sd21"].pipeline()):
            assert {type(processor) for processor in processors("sd21")} == {AttnProcessor2_0}
        assert all(one is other for one, other in zip(processors("sd21"), plain, strict=True))
    finally:
        unet.set_attn_processor(stock)


def test_the_backends_come_back_after_an_error():
    before = processors("sd21"), processors("flux")
    with pytest.raises(KeyError), attention_backend("native", *(FAMILIES[n].pipeline() for n in ("sd21", "flux"))):
        raise KeyError
    for name, kept in zip(("sd21", "flux"), before, strict=True):
        assert all(one is other for one, other in zip(processors(name), kept, strict=True))
    assert {processor._attention_backend for processor in processors("flux")} == {None}


@pytest.mark.parametrize(
    ("name", "backend", "message"),
    [
        ("flux", "fast", r"'fast' is unknown; choose from .*native"),
        ("flux", "flash_hub", r"would fetch code from a hub.*choose from .*native"),
        ("flux", "_native_npu", r"cannot run on this machine; choose from .*native"),
        ("sd21", "_native_math", r"no effect on UNet2DConditionModel \(AttnProcessor2_0\).*native and xformers"),
        ("sana", "native", r"no effect on SanaTransformer2DModel \(SanaAttnProcessor2_0, SanaLinear.*Leave it"),
    ],
)
def test_a_backend_that_would_do_nothing_is_refused_by_name(name, backend, message):
    with pytest.raises(ValueError, match=message), attention_backend(backend, FAMILIES[name].pipeline()):
        pass


def test_layers_that_do_not_listen_are_counted():
    pipelines = [FAMILIES[name].pipeline() for name in ("flux", "sd21")]
    with pytest.warns(RuntimeWarning, match=r"8 of 10 attention layers \(AttnProcessor2_0\)"):
        with attention_backend("_native_math", *pipelines):
            pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with attention_backend("native", *pipelines):
            pass


def test_every_backend_said_to_run_attends():
    # With CUDA the fused kernels are among them, which take half precision on the GPU.
    gpu = torch.cuda.is_available()
    place = {"device": "cuda", "dtype": torch.float16} if gpu else {}
    q = torch.randn(1, 8, 2, 16, generator=torch.Generator().manual_seed(0)).to(**place)
    expected = attention_dispatch.dispatch_attention_fn(q, q, q)
    close = 1e-2 if gpu else 1e-5
    for name in (name for name in available() if name.startswith("_native") or name == "native"):
        found = attention_dispatch.dispatch_attention_fn(q, q, q, backend=attention_dispatch.AttentionBackendName(name))
        torch.testing.assert_close(found, expected, atol=close, rtol=close)
    assert {"native", "_native_math"} <= set(available())
    assert not any(name.endswith("_hub") for name in available())


@pytest.mark.skipif(is_xformers_available(), reason="xformers is installed")
def test_xformers_that_is_missing_is_named_with_its_extra():
    with pytest.raises(ImportError, match=r"couple\[xformers\]"):
        with attention_backend("xformers", FAMILIES["sd21"].pipeline()):
            pass


@pytest.mark.skipif(not (torch.cuda.is_available() and is_xformers_available()), reason="xformers runs with CUDA only")
@pytest.mark.parametrize("name", ["sd21", "flux"])
def test_xformers_gives_the_numbers_of_native_attention(name):
    pipeline = FAMILIES[name].pipeline()
    pipeline.to("cuda", torch.float16)
    try:
        expected = run(name)
        with attention_backend("xformers", pipeline):
            used = processors(name)
            found = run(name)
        assert all(isinstance(one, XFormersAttnProcessor) or one._attention_backend == "xformers" for one in used)
    finally:
        pipeline.to("cpu", torch.float32)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=5e-2, rtol=5e-2)


# Compiled blocks: no inductor in here, which takes a minute and a C++ compiler; what is counted is the same.


def graphs(name, steps, max_batch):
    torch._dynamo.reset()
    counters.clear()
    with compiled(FAMILIES[name].pipeline(), backend="eager", dynamic=False, fullgraph=True):
        found = run(name, steps, max_batch=max_batch)
    assert not counters["graph_break"]
    return counters["stats"]["unique_graphs"], found


@pytest.mark.parametrize(("name", "kinds"), [("flux", 2), ("wan", 1), ("sd21", 1)])
@pytest.mark.parametrize(("steps", "max_batch"), [((3, 3), None), ((3, 3, 3), 2), ((2, 4), None)])
def test_each_kind_of_block_is_compiled_once(name, kinds, steps, max_batch):
    batch = constant_batch(nodes(name, steps), max_batch)
    count, found = graphs(name, steps, batch)
    assert count == kinds
    for one, other in zip(found, run(name, steps, max_batch=batch), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("steps", "max_batch"), [((2, 4), None), ((3, 3, 3), 2)])
def test_batches_that_change_would_compile_again(steps, max_batch):
    assert graphs("flux", steps, max_batch)[0] == 4


def test_constant_batches_are_equal_parts():
    def batch(count, most, *others):
        return constant_batch([*nodes("flux", (3,) * count), *others], most)

    assert [batch(6, most) for most in (None, 1, 2, 3, 4, 5, 6, 7)] == [None, 1, 2, 3, 3, 3, 6, 7]
    assert batch(7, 6) == 1
    assert batch(6, 4, *nodes("sd21", (3, 3, 3, 3))) == 4 - 2
    assert batch(6, 4, *nodes("sd21", (5, 5, 5))) == 3
    assert constant_batch(nodes("flux", (2, 4)), 8) == constant_batch(nodes("flux", (2, 4))) == 1


def test_compiled_blocks_are_given_back_and_earlier_ones_kept():
    network = denoiser("flux")
    block = network.transformer_blocks[0]
    block.compile(backend="eager")
    own = block._compiled_call_impl
    try:
        with pytest.raises(KeyError), compiled(FAMILIES["flux"].pipeline(), backend="eager"):
            assert block._compiled_call_impl is own
            assert network.single_transformer_blocks[0]._compiled_call_impl is not None
            raise KeyError
        assert block._compiled_call_impl is own
        assert network.single_transformer_blocks[0]._compiled_call_impl is None
    finally:
        block._compiled_call_impl = None


def test_networks_without_regions_are_refused_or_named():
    with pytest.raises(ValueError, match="SD3Transformer2DModel names no repeated blocks"):
        with compiled(FAMILIES["sd3"].pipeline()):
            pass
    with pytest.warns(RuntimeWarning, match="ControlNetModel names no repeated blocks"):
        with compiled(FAMILIES["controlnet"].pipeline(), backend="eager"):
            pass
