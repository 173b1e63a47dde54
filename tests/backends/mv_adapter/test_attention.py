"""The added attentions against a loop in plain numbers, and the UNet without them against its base."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from couple.backends.mv_adapter.attention import MultiViewAttention, Recorder, Views
from tests.tiny.building import module
from tests.tiny.mv_adapter import unet


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(reference, heads=2, width=8):
    attention = module(Attention, query_dim=width, heads=heads, dim_head=width // heads)
    return attention, module(MultiViewAttention, "here", attention, reference)


def attended(query, keys, values, heads):
    """One query against some keys, head by head, float64."""
    parts = []
    for q, k, v in zip(query.chunk(heads), keys.chunk(heads, 1), values.chunk(heads, 1), strict=True):
        parts.append(torch.softmax(k @ q / len(q) ** 0.5, 0) @ v)
    return torch.cat(parts)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (2, 4), (4, 2)])
def test_views_see_each_other_along_rows_of_their_own_set(height, width):
    attention, processor = layer(reference=False)
    views, sets = 3, 2
    x = normal(sets * views, height * width, 8)
    # The latents are twice the size of this level.
    out = processor(attention, x, views=Views(views, 2 * height, 2 * width, scale=0.5))
    base = processor(attention, x)

    weight = {name: p.double() for name, p in processor.named_parameters()}
    q, k, v = (x.double() @ weight[f"to_{part}_mv.weight"].T for part in "qkv")
    for row in range(sets * views):
        first = row // views * views
        for token in range(height * width):
            line = token // width
            keys, values = (
                torch.cat([p[first + other, line * width : (line + 1) * width] for other in range(views)])
                for p in (k, v)
            )
            seen = attended(q[row, token], keys, values, 2)
            seen = seen @ weight["to_out_mv.0.weight"].T + weight["to_out_mv.0.bias"]
            assert torch.allclose(out[row, token].double(), base[row, token].double() + 0.5 * seen, atol=1e-5)


def test_views_see_all_of_the_reference_picture():
    attention, processor = layer(reference=True)
    x, reference = normal(2, 4, 8), normal(2, 5, 8, seed=1)
    seen = processor(attention, x, views=Views(2, 2, 2, 0.0, {"here": reference}, 0.5))
    base = processor(attention, x)
    weight = {name: p.double() for name, p in processor.named_parameters()}
    q = x.double() @ weight["to_q_ref.weight"].T
    k, v = (reference.double() @ weight[f"to_{part}_ref.weight"].T for part in "kv")
    for row in range(2):
        for token in range(4):
            expected = attended(q[row, token], k[row], v[row], 2) @ weight["to_out_ref.0.weight"].T
            expected = base[row, token].double() + 0.5 * (expected + weight["to_out_ref.0.bias"])
            assert torch.allclose(seen[row, token].double(), expected, atol=1e-5)


@pytest.mark.parametrize("reference", [False, True], ids=["t2mv", "i2mv"])
def test_without_views_the_unet_is_its_base_bit_for_bit(reference):
    own = unet(reference)
    # Frozen as the adapter's is: torch multiplies by weights that want a gradient along another path.
    base = UNet2DConditionModel.from_config(own.config).eval().requires_grad_(False)
    base.load_state_dict({key: value for key, value in own.state_dict().items() if ".processor." not in key})
    arguments = (normal(2, 4, 4, 4), torch.tensor(3), normal(2, 5, 32))
    with torch.no_grad():
        plain, same = base(*arguments).sample, own(*arguments).sample
        record = own(*arguments, cross_attention_kwargs={"record": Recorder()}).sample
        views = own(*arguments, cross_attention_kwargs={"views": Views(2, 4, 4)}).sample
    assert torch.equal(same, plain)
    assert torch.equal(record, plain)
    assert not torch.allclose(views, plain, atol=1e-3)


def test_sets_of_views_do_not_look_at_each_other():
    own = unet(False)
    x, text = normal(4, 4, 4, 4), normal(4, 5, 32)
    other = torch.cat([x[:2], normal(2, 4, 4, 4, seed=1)])
    with torch.no_grad():
        a, b = (
            own(state, torch.tensor(3), text, cross_attention_kwargs={"views": Views(2, 4, 4)}).sample
            for state in (x, other)
        )
    assert torch.allclose(a[:2], b[:2], atol=1e-6)
    assert not torch.allclose(a[2:], b[2:], atol=1e-3)
