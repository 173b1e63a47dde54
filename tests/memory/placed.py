"""What the tests of placements share: tiny runs, what is compared of them, and networks that fail on purpose."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

import couple
from couple.memory import Placement, streaming
from tests.tiny import FAMILIES

STEPS = 3
#: What gives each tiny denoiser something to leave out.
PLACEMENTS = {
    "resident": lambda: Placement("resident", device="cpu"),
    "one at a time": lambda: Placement("resident", budget=1, device="cpu"),
    "blocks": lambda: Placement("stream", device="cpu"),
    "layers": lambda: Placement("stream", budget=1, device="cpu"),
    "half of the blocks": lambda: Placement("stream", budget=1_600_000, device="cpu"),
    "auto": lambda: Placement("auto", device="cpu"),
}
families = pytest.mark.parametrize("name", ["flux", "wan", "sd21"])


def nodes(name, count=2, steps=STEPS, **changes):
    family = FAMILIES[name]
    settings = {"num_inference_steps": steps, "output_type": "latent", **changes}
    seeds = [{"generator": torch.Generator().manual_seed(k)} for k in range(count)]
    return [
        couple.Trajectory(family.pipeline(), **{**family.arguments(k % 3), **settings, **seed})
        for k, seed in enumerate(seeds)
    ]


def run(placement=None, *, name="flux", count=2, max_batch=None, weight=0.1, steps=STEPS, **changes):
    members = nodes(name, count, steps, **changes)
    edges = couple.chain(members, weight=weight) if count > 1 else []
    result = couple.sample(members, edges, max_batch=max_batch, placement=placement, progress=False)
    return [on_cpu(result[node][0]) for node in members], result


def on_cpu(value):
    return value.cpu() if isinstance(value, torch.Tensor) else torch.as_tensor(np.asarray(value))


def denoiser(name):
    parts = FAMILIES[name].pipeline().components
    return parts["unet"] if "unet" in parts else parts["transformer"]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


META = torch.device("meta")  # plays an accelerator, as far as one is asked for and not used


@functools.cache
def used(name):
    """The first call of all leaves things behind, such as tables of position embeddings and counts of layers."""
    run(name=name, output_type="np")


def photograph(name):
    used(name)
    parts = [part for part in FAMILIES[name].pipeline().components.values() if isinstance(part, nn.Module)]
    layers = [
        (type(layer), sorted(vars(layer)), len(layer._forward_pre_hooks), getattr(layer, "processor", None))
        for part in parts
        for layer in part.modules()
    ]
    held = [(t.data_ptr(), t.dtype, t.device, t.shape) for part in parts for t in streaming.tensors(part)]
    switches = [(getattr(p, "use_slicing", None), getattr(p, "use_tiling", None)) for p in parts]
    return layers, held, switches


class Boom(Exception):
    pass


class Full:
    """Makes a layer run out of memory while `too_much(first argument)` holds."""

    def __init__(self, layer, too_much):
        self.hits = 0
        self.too_much = too_much
        self.handle = layer.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, layer, args, kwargs):
        if self.too_much(args[0] if args else next(iter(kwargs.values()))):
            self.hits += 1
            raise torch.OutOfMemoryError("there is no more")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.handle.remove()


def block(name):
    network = denoiser(name)
    return network.blocks[1] if name == "wan" else network.transformer_blocks[0]


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x, t):
        for layer in self.blocks:
            x = layer(x)
        return (x,)


cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def on_cuda(placement, name, max_batch=None, output_type="latent"):
    torch.cuda.reset_peak_memory_stats()
    found, result = run(placement, name=name, max_batch=max_batch, output_type=output_type)
    return [tensor.cpu() for tensor in found], result, torch.cuda.max_memory_allocated()
