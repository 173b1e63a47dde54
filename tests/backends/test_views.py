"""Multi-view models as `couple edit` calls them: rows and views, poses around an object, edges between the two models."""

import math

import pytest
import torch
from PIL import Image

import couple
from couple.backends import views
from couple.backends.mv_adapter import rig
from couple.scenes import Cameras, orbit
from couple.scenes.cameras import poses_around_origin
from tests.tiny import FAMILIES
from tests.tiny.building import picture
from tests.tiny.seva import orbit as seva_orbit


@pytest.mark.parametrize("reference", range(4))
def test_the_rows_of_seva_are_those_it_was_given_cameras_for(reference):
    cameras = seva_orbit(4)
    call = views.arguments("seva", FAMILIES["seva"].pipeline(), picture(0, 16), cameras, reference)
    state = torch.cat([call["cameras"].c2w, call["target_cameras"].c2w])
    rows = views.rows("seva", 4, reference)
    assert rows[reference] == 0 and torch.equal(state[rows], cameras.c2w)


def test_the_reference_is_scaled_to_the_size_of_the_views():
    call = views.arguments("seva", FAMILIES["seva"].pipeline(), Image.new("RGB", (64, 64)), seva_orbit(2), 1)
    assert call["images"][0].size == (16, 16) and (call["height"], call["width"]) == (16, 16)


def test_mv_adapter_is_given_the_reference_only_where_it_takes_one():
    for family, taken in (("mv_adapter i2mv sd21", True), ("mv_adapter t2mv sd21", False)):
        cameras = orbit(3, radius=2.0, elevation=0.2, height=32, width=32)
        call = views.arguments("mv-adapter", FAMILIES[family].pipeline(), picture(0, 32), cameras, 0, prompt="a cup")
        assert ("image" in call) is taken and call["prompt"] == "a cup"


@pytest.mark.parametrize("front", [0, 2])
def test_cameras_around_an_object_anywhere_are_those_around_the_origin(front):
    """The world is moved, turned about z, and looked at from a ring; MV-Adapter's ring of the same angles comes out."""
    angles = torch.tensor([0.0, 50, 110, 200], dtype=torch.float64).deg2rad()
    c2w = poses_around_origin(angles, torch.full((4,), 0.3, dtype=torch.float64), 1.8)
    c2w[:, :3, 3] += torch.tensor([5.0, -3.0, 1.0], dtype=torch.float64)
    ring = views.around_object(Cameras(c2w, torch.eye(3), 32, 32), front)
    degrees = (angles - angles[front]).rad2deg().tolist()
    expected = rig(degrees, height=32, width=32, elevation=math.degrees(0.3), distance=1.8)
    assert torch.allclose(ring.c2w, expected.c2w, atol=1e-9)


def test_parallel_cameras_have_no_object():
    c2w = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    c2w[:, 0, 3] = torch.arange(3.0)
    with pytest.raises(ValueError, match="look in parallel.*--multiview seva"):
        views.around_object(Cameras(c2w, torch.eye(3), 8, 8), 0)


@pytest.mark.parametrize(
    ("family", "multiple"), [("seva", 16), ("mvdream", 4), ("mv_adapter i2mv sd21", 16), ("mv_adapter t2mv sdxl", 32)]
)
def test_sizes_that_a_model_takes(family, multiple):
    assert views.size_multiple(FAMILIES[family].pipeline()) == multiple


def coupled(model, editor, sizes, **changes):
    """The edges between the two families, and what the pulls make of the model's sample at weight 0 and .05."""
    nodes = []
    for name, k in ((model, 0), (editor, 1)):
        family = FAMILIES[name]
        nodes.append(couple.Trajectory(family.pipeline(), name=name, **{**family.arguments(k), **changes}))
    rows = [2, 1]
    edges = views.joined(*nodes, rows, weight=0.05, size=sizes[0], editor_size=sizes[1])
    return edges, [couple.sample(nodes, some, progress=False)[nodes[0]][0] for some in ([], edges)]


def test_models_of_one_latent_size_share_an_edge_a_view():
    edges, samples = coupled("seva", "ic_light fc", ((16, 16), (16, 16)), output_type="latent")
    assert [(edge.a.label, edge.b.label) for edge in edges] == [
        ("seva[2]", "ic_light fc[0]"),
        ("seva[1]", "ic_light fc[1]"),
    ]
    moved = (samples[1] - samples[0]).flatten(1).norm(dim=1)
    assert (moved[1:] > 0).all()


def test_latents_of_other_sizes_are_compared_at_the_smaller():
    nodes = [couple.Trajectory(FAMILIES[name].pipeline(), name=name) for name in ("seva", "neural_gaffer")]
    edges = views.joined(*nodes, [0], weight=1, size=(32, 32), editor_size=(16, 16))
    assert [edges[0].a.label, edges[0].b.label] == [
        "seva[0] through resize(8, 8)",
        "neural_gaffer[0] through resize(8, 8)",
    ]


def test_latents_of_other_autoencoders_meet_over_a_bridge_each_way():
    edges, samples = coupled("mv_adapter i2mv sd21", "ic_light fc", ((32, 32), (16, 16)), output_type="latent")
    assert len(edges) == 4 and all(edge.directed for edge in edges)
    assert not torch.equal(samples[0], samples[1])
