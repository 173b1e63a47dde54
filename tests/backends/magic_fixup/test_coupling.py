"""Magic Fixup in a coupling, by nothing but its scheduler."""

import torch

import couple
from tests.tiny.magic_fixup import FAMILIES

FAMILY = FAMILIES["magic_fixup"]


def alone(k):
    return FAMILY.pipeline()(**FAMILY.arguments(k)).images


def together(weight, **options):
    a, b = (couple.Trajectory(FAMILY.pipeline(), name=str(k), **FAMILY.arguments(k)) for k in (0, 1))
    result = couple.sample([a, b], couple.pair(a, b, weight=weight), progress=False, **options)
    return result, [result[node].images for node in (a, b)]


def test_at_weight_zero_two_calls_side_by_side_are_the_plain_calls():
    _, images = together(0.0, max_batch=1)
    for k in (0, 1):
        assert torch.equal(images[k], alone(k))


def test_calls_that_share_forwards_keep_their_own_references():
    result, images = together(0.0)
    assert result.forwards < 2 * 2 * 4  # calls, networks, steps
    for k in (0, 1):
        torch.testing.assert_close(images[k], alone(k), atol=1e-5, rtol=1e-5)


def test_a_coupling_draws_the_edits_together():
    _, images = together(couple.weights.relax(0.3), max_batch=1)
    assert torch.dist(*images) < 0.9 * torch.dist(alone(0), alone(1))


def test_one_row_can_be_coupled():
    a, b = (couple.Trajectory(FAMILY.pipeline(), name=str(k), **FAMILY.arguments(k)) for k in (0, 1))
    edges = couple.pair(a[0], b[0], weight=couple.weights.relax(0.3))
    result = couple.sample([a, b], edges, progress=False, max_batch=1)
    assert not torch.equal(result[a].images[0], alone(0)[0])
