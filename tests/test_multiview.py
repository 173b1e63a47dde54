"""Every editor of single pictures coupled with every multi-view model, end to end at tiny size.

The editor edits the last views of a scene, the multi-view model makes all of them, and an edge joins the two pictures
of each of these views. Where the latent sizes differ, the edge compares them at the smaller one; where the latent spaces
differ, a bridge each way joins them.
"""

import functools

import pytest
import torch

import couple
from couple import latents, maps
from tests.tiny import EDITORS, FAMILIES, MULTI_VIEW

STOCK = {name: FAMILIES[name] for name in ("controlnet", "instruct_pix2pix", "img2img")}
ALL = {**EDITORS, **STOCK}


def trajectory(name, k):
    family = FAMILIES[name]
    arguments = {**family.arguments(k), "output_type": "latent"}
    return couple.Trajectory(family.pipeline(), name=name, **arguments)


@functools.cache
def alone(name, k):
    node = trajectory(name, k)
    return torch.as_tensor(node.pipeline(**node.call_kwargs)[0])


def bridged(source, target, k, shapes, weight):
    """Row -k of the target follows that of the source, which is decoded, resized and encoded again."""
    vae = target.pipeline.vae
    height, width = (side * 2 ** (len(vae.config.block_out_channels) - 1) for side in shapes[target][-2:])
    bridge = maps.bridge(source.pipeline.vae, vae, size=(height, width))
    return couple.pair(source[-k].through(bridge), target[-k], weight=weight, directed=True)


def joined(views, editor, weight):
    """One edge for each view that the editor edits, counted from the end."""
    shapes = {node: alone(node.name, k).shape for node, k in ((views, 0), (editor, 1))}
    rows = range(1, shapes[editor][0] + 1)
    if latents.space(views.pipeline) != latents.space(editor.pipeline):
        return [
            edge
            for k in rows
            for ends in ((views, editor), (editor, views))
            for edge in bridged(*ends, k, shapes, weight)
        ]
    side = min(shape[-1] for shape in shapes.values())
    edges = []
    for k in rows:
        ends = [
            node[-k] if shapes[node][-1] == side else node[-k].through(maps.resize(side, side))
            for node in (views, editor)
        ]
        edges += couple.pair(*ends, weight=weight)
    return edges


@pytest.mark.parametrize("editor", ALL)
@pytest.mark.parametrize("multi_view", MULTI_VIEW)
def test_every_editor_couples_with_every_multi_view_model(multi_view, editor):
    def run(weight, **options):
        nodes = trajectory(multi_view, 0), trajectory(editor, 1)
        result = couple.sample(nodes, joined(*nodes, weight), progress=False, **options)
        return [torch.as_tensor(result[node][0]) for node in nodes]

    stock = alone(multi_view, 0), alone(editor, 1)
    for found, expected in zip(run(0.0, max_batch=1), stock, strict=True):
        assert torch.equal(found, expected)
    coupled = run(0.05)
    for found, expected in zip(coupled, stock, strict=True):
        assert found.isfinite().all()
        assert not torch.equal(found, expected)
    # The views that the editor does not see are pulled by no edge; only the network may move them.
    rows = len(stock[1])
    moved = (coupled[0] - stock[0]).flatten(1).norm(dim=1)
    assert (moved[-rows:] > 0).all()
